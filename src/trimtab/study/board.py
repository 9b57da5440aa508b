"""What all of a study's processes are at: a table on a terminal, and lines at growing intervals in a log file.

Each task writes a log of its own. The board reads what is new: the last line of each is shown, warnings are said.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.formats import rough_duration
from trimtab.notices import console, is_quiet, say
from trimtab.progress import FIRST, next_line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

WARNING = "warning: "


class _Row:
    """A task that goes on. log: its file, of which what was there before is not read."""

    def __init__(self, log: Path, now: float) -> None:
        self.log, self.began, self.last = log, now, ""
        self.read = log.stat().st_size if log.is_file() else 0

    def news(self) -> list[str]:
        """The lines that are new and whole."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.read)
                new = file.read()
        except OSError:
            return []
        whole = new.rpartition(b"\n")[0]
        if not whole:
            return []
        self.read += len(whole) + 1
        return [line for line in whole.decode("utf-8", "replace").splitlines() if line.strip()]


class Board:
    """total: how many tasks there are; done: those that were done before. clock: gives seconds."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.clock = total, 0, clock
        self.rows: dict[str, _Row] = {}
        self.started, self.due = clock(), FIRST
        self.live: Live | None = None

    def __enter__(self) -> Board:
        if console.is_terminal and not is_quiet():
            from rich.live import Live  # for terminals alone

            self.live = Live(console=console, transient=True, get_renderable=self._table, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def begun(self, title: str, log: Path) -> None:
        """A task has begun, under a title of its own."""
        self.rows[title] = _Row(log, self.clock())

    def ended(self, title: str, how: str = "done") -> None:
        """A task has ended: what it said last is said, and how long it took."""
        self.look()
        row = self.rows.pop(title)
        if how == "done":
            self.done += 1
        took = rough_duration(self.clock() - row.began)
        say(f"{title}: {how}, {took} ({self.done}/{self.total} tasks done)")

    def look(self) -> None:
        """Reads what the tasks have said since, says their warnings, and in a log file how far they are, if a line
        is due."""
        for row in self.rows.values():
            for line in row.news():
                if line.startswith(WARNING):
                    console.print(line, style="yellow")
                else:
                    row.last = line
        now = self.clock() - self.started
        if self.live is None and now >= self.due:
            self.due = max(next_line(self.due), now + FIRST)
            for title, row in self.rows.items():
                say(_about(title, row.last) or f"{title}: {rough_duration(self.clock() - row.began)} so far")

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for title, row in self.rows.items():
            table.add_row(title, rough_duration(self.clock() - row.began), _without_name(title, row.last))
        table.add_row(f"{self.done}/{self.total} tasks done", rough_duration(self.clock() - self.started), "")
        return table


def _about(title: str, line: str) -> str:
    """A task's line behind the task's title; nothing where it has said nothing."""
    return line if not line or line.startswith(title) else f"{title}: {_without_name(title, line)}"


def _without_name(title: str, line: str) -> str:
    """A task's line without the title, or the stage's name in it, that it begins with."""
    name = title.rpartition(": ")[2]
    return next((line[len(start) :] for start in (f"{title}: ", f"{name}: ") if line.startswith(start)), line)
