"""`trimtab watch`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch_command(
    folder: Annotated[Path, typer.Argument(help="A study's folder, or a stage's.")],
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and leave.")] = False,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="A page that shows the same.")] = None,
) -> None:
    """How far a run is, from its folder: stages, curves, time left. It disturbs nothing."""
    from trimtab.watch.terminal import watch

    watch(folder, every, once, page)
