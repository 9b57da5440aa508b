"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.rewards.kinds import NAMES

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting, such as data.max_length=512; more than once for several."
    ),
]
Model = Annotated[str, typer.Option("--model", help="Hugging Face folder, GGUF file, or hub name.")]
Data = Annotated[str, typer.Option("--data", help=".jsonl, .json or .parquet file, folder, or hub name.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="Where the tokenizer is, if elsewhere.")]
Rewards = Annotated[
    list[str] | None,
    typer.Option("--reward", help=f"{NAMES}; may be given more than once."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="A quick try: the first N rows of each split.", metavar="N")
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes that share the work and threads.")]
Rows = Annotated[int | None, typer.Option("--rows", min=1, help="Take N rows, not all.", metavar="N")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew where OUT has what was made with other settings.")
]
Skip = Annotated[int, typer.Option("--skip", min=0, help="Leave out the first N rows.", metavar="N")]
AcceptChangedReward = Annotated[
    bool,
    typer.Option(
        "--accept-changed-reward",
        help="Go on with a reward or judge whose code was changed since the run began; it is recorded.",
    ),
]
Validation = Annotated[str | None, typer.Option("--validation", help="Validation rows, if from elsewhere.")]
