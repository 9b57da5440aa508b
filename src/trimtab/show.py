"""What a command prints at its end: tables for a terminal or a file, results, and what libraries may say."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab.notices import console, is_quiet, say

if TYPE_CHECKING:
    from trimtab.evaluation.results import Results
    from trimtab.report.table import Table as TableOfText
    from trimtab.settings_list import SettingsTable


WIDTH_OF_A_FILE = 140


def print_results(results: Results, said: Collection[str] = ()) -> None:
    """Warnings, tables and verdict. said: warnings that stand on the screen already."""
    from trimtab.report.table import filled
    from trimtab.report.tables import methods_table
    from trimtab.report.task_tables import tasks_table

    for line in (line for line in results.warnings if line not in said):
        console.print(f"warning: {line}", style="yellow")
    print_table(filled(methods_table(results)))
    if results.tasks:
        print_table(tasks_table(results))
    for line in results.verdict:
        print(line)


def print_ending(stage: Path) -> None:
    """Of a command that trained one model: what was kept, what became of the rows, warnings, what comes next."""
    from trimtab.files import read_json
    from trimtab.training.ending import ending

    if is_quiet():
        return
    remedy = f"Put it back, or remove {stage}, and the same command makes it anew."
    for line in read_json(stage / "done.json", remedy).get("warnings", ()):
        console.print(f"warning: {line}", style="yellow")
    for line in ending(stage):
        say(line)


def print_table(table: TableOfText | SettingsTable, title: str | None = None) -> None:
    """Text of data stands in cells: it is no markup. The notes come with the title."""
    wide = _wide_console()
    if title:  # not the table's own: that wraps to the width of its columns
        wide.print(escape(title), style="italic", highlight=False, soft_wrap=True)
    shown = Table()
    for column in table.header:
        shown.add_column(escape(column), overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    wide.print(shown)
    for note in table.notes if title else ():
        wide.print(escape(note), highlight=False, soft_wrap=True)


def _wide_console() -> Console:
    """Wide enough for a pipe or a file, too."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=WIDTH_OF_A_FILE)
