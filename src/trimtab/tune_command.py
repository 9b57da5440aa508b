"""`trimtab tune`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.options import Limit, Set


def tune_command(
    recipe: Annotated[Path, typer.Argument(help="A recipe with search spaces.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder; runs/NAME-tune without it.")] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Settings tried; the recipe's without it.")
    ] = None,
    limit: Limit = None,
    settings: Set = None,
) -> None:
    """Searches settings on the tuning prompts, and measures the best once on the test prompts."""
    from trimtab.study.asked import loading_libraries, tune_asked

    more = [f"tune.trials={trials}"] if trials is not None else []
    path, value = tune_asked(recipe, limit, [*(settings or ()), *more])
    with loading_libraries():
        from trimtab.tune.ending import conclude
        from trimtab.tune.search import bench_of, search

    folder = out or Path("runs") / f"{value.get('name', 'study')}-tune"
    bench = bench_of(path, value, folder)
    ending = conclude(bench, search(bench))
    for line in ending.sentences:
        print(line)
    print(f"Report: {folder / 'report.html'}")
    print(f"Every trial: {folder / 'trials.csv'}, {folder / 'figures' / 'trials.svg'}")
