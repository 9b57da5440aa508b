"""Splits by the values of a column: rows with the same value stay together (data.split_by)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.data.fields import json_of
from trimtab.data.records import Record
from trimtab.data.stored_records import place_of_prompt
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonValue
from trimtab.notices import say


def value_of(record: Record, column: str) -> str:
    """A row's value of a column, as text that is the same for equal values; of a list the set of its entries, in
    whatever order. TrimtabError, with the row, where it has none."""
    value = json_of(record.columns.get(column))
    if value is None:
        raise TrimtabError(f"{record.origin}: data.split_by={column}: the row has no such column, or null in it.")
    return f"{column} {json.dumps(_as_set(value), sort_keys=True, ensure_ascii=False, default=str)}"


def _as_set(value: JsonValue) -> JsonValue:
    if not isinstance(value, list):
        return value
    entries = {json.dumps(entry, sort_keys=True, default=str): entry for entry in value}
    return [entries[text] for text in sorted(entries)]


def places_by(records: Sequence[Record], column: str) -> Any:
    """Of each record a place in (0, 1), the same for equal values, as an array.

    Values stand in an order that depends on nothing but themselves, and a value's place is the share of rows before
    its middle one: a share of places is that share of the rows, as nearly as whole values allow.
    """
    values = [value_of(record, column) for record in records]
    rows, before, places = Counter(values), 0, {}
    for value in sorted(rows, key=lambda value: (place_of_prompt(value), value)):
        places[value] = (before + rows[value] / 2) / len(values)
        before += rows[value]
    return np.array([places[value] for value in values])


def values_told(column: str, splits: Mapping[str, Sequence[Record]]) -> dict[str, int]:
    """How many values each split has; says so in a line, with the rows."""
    counts = {name: len({value_of(record, column) for record in rows}) for name, rows in splits.items()}
    parts = [f"{name} {len(splits[name])} rows of {values} values" for name, values in counts.items()]
    say(f"data.split_by={column}: {', '.join(parts)}")
    return counts
