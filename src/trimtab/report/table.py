"""A table of a report, and numbers as its cells show them. A number that does not exist is "–", never 0."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from trimtab.evaluation.estimate import Interval95

NONE = "–"
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


def number(value: float | None, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A number with a true minus sign; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{scale * value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def with_interval(
    value: float | None, ci: Interval95 | None, digits: int = 1, scale: float = 1.0, sign: bool = False
) -> str:
    """ "59.3 [52.4, 66.1]"."""
    text = number(value, digits, scale, sign)
    if value is None or ci is None:
        return text
    return f"{text} [{number(ci[0], digits, scale, sign)}, {number(ci[1], digits, scale, sign)}]"


def p_value(p: float | None) -> str:
    """ "0.012", or "< 0.001"."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def with_ends(name: str, value: float | None, ci: Interval95 | None) -> dict[str, Value]:
    """A number and the ends of its interval, for a CSV file."""
    low, high = ci if ci is not None else (None, None)
    return {name: value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def filled(table: Table) -> Table:
    """Without the columns that no row fills, for a narrow terminal."""
    kept = [i for i in range(len(table.header)) if i == 0 or any(row[i] != NONE for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return replace(table, header=[table.header[i] for i in kept], rows=rows)
