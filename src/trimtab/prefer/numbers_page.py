"""What whoever started the page sees while people vote. It names methods: people who judge must not see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.prefer.ballot import Ballot
from trimtab.report.table import Table, Value


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
