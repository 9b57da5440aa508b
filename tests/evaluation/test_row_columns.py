"""What columns of the test rows say of them."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.evaluation.row_columns import cluster_names, difficulties
from trimtab.evaluation.statistics import clusters_of


def rows(*columns: dict[str, Any]) -> list[Record]:
    return [Record(f"prompt {i}", ("answer",), columns=held) for i, held in enumerate(columns)]


def test_rows_of_one_value_are_one_cluster() -> None:
    """A row without a value is a cluster of its own, and so is each such row; 1 is not "row 1"."""
    names = cluster_names(rows({"document": 1}, {}, {"document": 1}, {"document": "b"}, {}), "document")
    assert len(set(names)) == 4
    assert names[0] == names[2]
    numbers = clusters_of(names)
    assert numbers is not None
    assert numbers[0] == numbers[2]
    assert cluster_names(rows({"document": 1}), None) == []


def test_difficulties_are_numbers() -> None:
    assert difficulties(rows({"hard": 1}, {"hard": -0.5}), "hard") == [1.0, -0.5]
    assert difficulties(rows({"hard": 1}), None) == []


@pytest.mark.parametrize("value", [None, "2", True, float("nan")])
def test_what_is_no_number_is_told_with_its_row(value: Any) -> None:
    with pytest.raises(TrimtabError, match="test row 2 holds"):
        difficulties(rows({"hard": 1}, {"hard": value}), "hard")


@pytest.mark.parametrize("read", [cluster_names, difficulties])
def test_a_column_that_no_row_has_is_told_with_those_there_are(read: Any) -> None:
    with pytest.raises(TrimtabError, match="no test row has a column 'topic'; there are hard, size"):
        read(rows({"hard": 1}, {"size": 2}), "topic")
