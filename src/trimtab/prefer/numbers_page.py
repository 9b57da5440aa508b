"""What whoever started the page sees while people vote: who has judged how much. It names methods, so that people
who judge must not see it."""

from __future__ import annotations

from trimtab.prefer.ballot import Ballot
from trimtab.report.table import Table, Value


def progress_table(ballot: Ballot) -> Table:
    """Votes by person, and what is left for each."""
    records: list[dict[str, Value]] = []
    for person, votes in ballot.counts().items():
        records.append({"person": person, "votes": votes, "left": ballot.progress(person).left})
    rows = [[str(value) for value in record.values()] for record in records]
    return Table("people", "Votes by person", ["Person", "Votes", "Items left"], rows, records)
