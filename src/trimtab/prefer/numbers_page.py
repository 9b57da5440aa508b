"""What whoever started the page sees while people vote. It names methods: people who judge must not see it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import Ballot
from trimtab.prefer.numbers import report_votes
from trimtab.report.table import Table, Value

PATIENCE = 2.0
"""Seconds that a page waits for numbers that are being worked out."""


@dataclass(frozen=True)
class Numbers:
    """tables: each with a caption. sentences, warnings: above them."""

    tables: Sequence[Table]
    sentences: Sequence[str] = ()
    warnings: Sequence[str] = ()


def progress(ballot: Ballot) -> Numbers:
    """Votes by person, and what is left for each."""
    records: list[dict[str, Value]] = []
    for person, votes in ballot.counts().items():
        records.append({"person": person, "votes": votes, "left": ballot.progress(person).left})
    rows = [[str(value) for value in record.values()] for record in records]
    return Numbers([Table("people", "Votes by person", ["Person", "Votes", "Items left"], rows, records)])


class LiveNumbers:
    """The same, and what the votes say by themselves. That takes seconds, in a thread of its own while people vote:
    the page shows what was found last, and says where more votes have come. votes: their file."""

    def __init__(self, votes: Path) -> None:
        self._votes = votes
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._found = Numbers(())
        self._counted = 0

    def __call__(self, ballot: Ballot) -> Numbers:
        people, cast = progress(ballot), sum(ballot.counts().values())
        with self._lock:
            if cast != self._counted and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._find, args=(cast,), daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(PATIENCE)
        with self._lock:
            found, counted = self._found, self._counted
        late = [f"What the votes say is being worked out for {cast} votes: look again."] if cast != counted else []
        return Numbers([*people.tables, *found.tables], found.sentences, [*late, *found.warnings])

    def _find(self, cast: int) -> None:
        try:
            report = report_votes(self._votes)
            found = Numbers(report.tables, report.sentences, report.warnings)
        except TrimtabError as error:
            found = Numbers((), warnings=[str(error)])
        with self._lock:
            self._found, self._counted = found, cast
