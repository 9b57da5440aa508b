"""What columns of the test rows say: which rows are not independent of each other, and how hard a prompt is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.evaluation.near_duplicates import NEAR_DUPLICATES
from trimtab.json_types import JsonValue


def cluster_names(records: Sequence[Record], column: str | None) -> list[str]:
    """Of each row, the name of its cluster: the column's value; a row without one is a cluster of its own. None
    at all without a column, or where near-duplicates are asked for. TrimtabError where no row has the column."""
    if column is None or not records or takes_near_duplicates(records, column):
        return []
    values = _column(records, "clusters", column)
    return [f"row {i}" if value is None else f"value {value}" for i, value in enumerate(values)]


def takes_near_duplicates(records: Sequence[Record], setting: str | None) -> bool:
    """Whether prompts that are nearly the same are one cluster: a column of that name has the first word."""
    return setting == NEAR_DUPLICATES and not any(setting in record.columns for record in records)


def difficulties(records: Sequence[Record], column: str | None) -> list[float]:
    """Of each row, the column's number; none at all without a column. TrimtabError where a row has none."""
    if column is None or not records:
        return []
    numbers = []
    for i, value in enumerate(_column(records, "difficulty", column)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise TrimtabError(
                f"evaluation.difficulty: column {column!r} of test row {i + 1} holds {value!r}. Give every test "
                "row a number, or leave it out."
            )
        numbers.append(float(value))
    return numbers


def _column(records: Sequence[Record], setting: str, column: str) -> list[JsonValue]:
    values = [record.columns.get(column) for record in records]
    if all(value is None for value in values):
        names = sorted({name for record in records for name in record.columns})
        listed = f"are {', '.join(names)}" if names else "is none"
        raise TrimtabError(
            f"evaluation.{setting}: no test row has a column {column!r}; there "
            f"{listed}. Name a column of the rows, or leave it out."
        )
    return values
