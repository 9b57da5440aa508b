"""A run's state in a terminal, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from trimtab.files import write_text
from trimtab.watch.page import page
from trimtab.watch.state import RunState, look_at
from trimtab.watch.words import COLUMNS, cells


def table(state: RunState) -> Table:
    """A row for each stage and evaluation."""
    out = Table(
        title=f"{state.name}{': done' if state.finished else ''}",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in COLUMNS:
        out.add_column(name, no_wrap=name != "newest")
    for stage in state.stages:
        out.add_row(*cells(stage), style="dim" if stage.state == "waits" else "")
    return out


def watch(
    folder: Path, seconds: float, once: bool, file: Path | None, sleep: Callable[[float], object] = time.sleep
) -> RunState:
    """Shows a folder's state until it is done, or once. seconds: between two looks. file: a page that is written
    beside."""

    def look() -> RunState:
        state = look_at(folder)
        if file is not None:
            write_text(file, page(state, None if once or state.finished else seconds))
        return state

    console, state = Console(markup=False, emoji=False, highlight=False), look()
    if once or state.finished:
        console.print(table(state))
        return state
    with Live(table(state), console=console, auto_refresh=False) as live:
        while not state.finished:
            sleep(seconds)
            state = look()
            live.update(table(state), refresh=True)
    return state
