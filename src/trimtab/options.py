"""What all commands share: options and arguments, and how a command begins and ends."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trimtab.rewards.kinds import NAMES
from trimtab.stopping import SENTENCE, Stopped, is_first_process

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
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="0,1",
        help="GPUs that these processes see, one each, in turn.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Spread it over a Ray cluster: auto, local or its address."),
]
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
EVERYWHERE = ("--debug", "--quiet", "-q")
"""Options of trimtab itself that may also stand behind a command's name."""


class Commands(TyperGroup):
    """Says how a stopped run goes on; typer would leave without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words behind `trimtab`; its own options may stand anywhere among them."""
        # A shell reads ~ in `--out ~/x`, and not in `--out=~/x`.
        args = [re.sub(r"^(--[a-z-]+=)?~(?=/)", rf"\g<1>{Path.home()}", word) for word in args]
        own = args[: args.index("--")] if "--" in args else args
        ours = [word for word in own if word in EVERYWHERE]
        others = [word for word in own if word not in EVERYWHERE]
        return super().parse_args(ctx, [*ours, *others, *args[len(own) :]])

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            if is_first_process():
                print(SENTENCE, file=sys.stderr)
            raise typer.Exit(stop.exit_code if isinstance(stop, Stopped) else 130) from None
