from __future__ import annotations

import math
from typing import Any

import pytest

from trimtab.data.fields import BadRowError
from trimtab.readers.values import (
    completion_read,
    key_read,
    preference_read,
    prompt_read,
    score_read,
    winner_read,
)


@pytest.mark.parametrize(
    ("written", "score", "scale"),
    [
        (3, 3.0, "numbers"),
        ("-2.5", -2.5, "numbers"),
        ("1e-3", 0.001, "numbers"),
        (True, 1.0, "grades"),
        ("C", 1.0, "grades"),
        ("P", 0.5, "grades"),
        ("N", 0.0, "grades"),
        ("Incorrect", 0.0, "grades"),
        ("87 %", 0.87, "shares of 100"),
        ("8/10", 0.8, "shares of 10"),
        ("4 out of 5", 0.8, "shares of 5"),
    ],
)
def test_scores_as_they_are_written(written: Any, score: float, scale: str) -> None:
    read = score_read(written)
    assert read.score == pytest.approx(score)
    assert read.scale == scale


@pytest.mark.parametrize("written", [None, "", "nan", "N/A", math.nan, math.inf])
def test_missing_scores_have_a_reason_and_no_number(written: Any) -> None:
    read = score_read(written)
    assert read.score is None
    assert read.reason


@pytest.mark.parametrize("written", ["good", "7 apples", [1.0], {"helpful": 3}])
def test_what_is_no_score_is_not_taken_as_missing(written: Any) -> None:
    with pytest.raises(BadRowError):
        score_read(written)


def test_winners() -> None:
    ours, theirs = ["tiny", "a", "model_a"], ["big", "b", "model_b"]
    assert [winner_read(w, ours, theirs) for w in ("model_a", "B", "tie", "tie (bothbad)", None, "Tiny")] == [
        1.0, 0.0, 0.5, 0.5, None, 1.0,
    ]  # fmt: skip
    with pytest.raises(BadRowError, match=r"'c' is none of"):
        winner_read("c", ours, theirs)


def test_preferences_on_both_scales() -> None:
    assert [preference_read(p, True) for p in (1, 1.5, 2, 0, None)] == [0.0, 0.5, 1.0, 0.5, None]
    assert [preference_read(p, False) for p in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    with pytest.raises(BadRowError, match=r"not from 1 to 2"):
        preference_read(2.5, True)


def test_ids_of_different_types_are_the_same() -> None:
    assert key_read(7) == key_read("7") == key_read(7.0) == "7"
    assert key_read(None) is None


def test_texts_that_are_messages() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "ask"}]
    assert prompt_read(turns) == "ask"
    assert completion_read([*turns, {"role": "assistant", "content": "answer"}]) == "answer"
    assert completion_read({"role": "assistant", "content": "answer"}) == "answer"
    assert completion_read("  plain ") == "  plain "
    assert completion_read("[{'role': it is no list") == "[{'role': it is no list"
