"""A table of a report, and numbers as its cells show them. A number that does not exist is "–", never 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from trimtab.evaluation.estimate import Interval95
from trimtab.formats import NONE

Value = float | int | str | None


@dataclass(frozen=True)
class Table:
    """`rows` are texts to read, one per entry of `header`; `records` are raw values for CSV."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    records: list[dict[str, Value]]
    notes: list[str] = field(default_factory=list)


def with_ends(name: str, value: float | None, ci: Interval95 | None) -> dict[str, Value]:
    """A number and the ends of its interval, for a CSV file."""
    low, high = ci if ci is not None else (None, None)
    return {name: value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def filled(table: Table) -> Table:
    """Without the columns that no row fills, for a narrow terminal."""
    kept = [i for i in range(len(table.header)) if i == 0 or any(row[i] != NONE for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return replace(table, header=[table.header[i] for i in kept], rows=rows)
