"""Weighted sums, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.errors import TrimtabError
from trimtab.rewards.base import Reward, Scored
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.weighted import WeightedReward


def given(name: str, *scores: float | None) -> FunctionReward:
    return FunctionReward(lambda completions: list(scores), name)


def test_the_sum_and_its_parts() -> None:
    """2 · 3 − 0.5 · 4 = 4 and 2 · 0 − 0.5 · (−1) = 0.5."""
    reward = WeightedReward([(given("good", 3.0, 0.0), 2.0), (given("long", 4.0, -1.0), -0.5)])
    assert reward.scored(["p", "p"], ["x", "y"]) == [
        Scored(4.0, None, {"good": 3.0, "long": 4.0}),
        Scored(0.5, None, {"good": 0.0, "long": -1.0}),
    ]
    assert reward.name == "2·good + -0.5·long"


def test_a_missing_part_leaves_no_sum() -> None:
    """Also of weight 0: what the reward is does not hang on luck."""
    parts = [(given("a", None, 1.0, None), 0.0), (given("b", 1.0, 1.0, None), 1.0)]
    found = WeightedReward(parts).scored(["p"] * 3, ["x"] * 3)
    assert [one.score for one in found] == [None, 1.0, None]
    assert [one.reason for one in found] == ["a: a gave None", None, "a: a gave None; b: b gave None"]
    assert found[0].breakdown == {"a": None, "b": 1.0}


def test_ids_and_columns_reach_every_part() -> None:
    def tokens(completion_ids: list[list[int]]) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    def answers(answer: list[float]) -> list[float]:
        return answer

    reward = WeightedReward([(FunctionReward(tokens), 1.0), (FunctionReward(answers), 10.0)])
    found = reward.scored(["p", "p"], ["x", "y"], completion_ids=[[1, 2], [3]], columns={"answer": [1.0, 2.0]})
    assert [one.score for one in found] == [12.0, 21.0]


def test_a_sum_beyond_numbers_is_missing() -> None:
    found = WeightedReward([(given("a", 1e17), 1e300), (given("b", 1.0), 1.0)]).scored(["p"], ["x"])
    assert (found[0].score, found[0].reason) == (None, "the sum gave inf")


def test_parts_must_be_told_apart_and_have_numbers_for_weights() -> None:
    for parts in ([], [(given("a", 1.0), 1.0), (given("a", 2.0), 1.0)]):
        with pytest.raises(TrimtabError, match="a name of its own"):
            WeightedReward(parts)
    with pytest.raises(TrimtabError, match="weight of reward a: nan"):
        WeightedReward([(given("a", 1.0), float("nan"))])


def test_the_signature_has_every_part_and_weight() -> None:
    a, b = given("a", 1.0), given("b", 1.0)
    combinations = ([(a, 1.0)], [(a, 2.0)], [(b, 1.0)], [(a, 1.0), (b, 1.0)])
    assert len({WeightedReward(parts).signature for parts in combinations}) == 4


def test_a_part_that_miscounts_is_named() -> None:
    class Short(Reward):
        name = signature = "short"

        def scored(self, prompts, completions, *, completion_ids=None, columns=None):  # type: ignore[no-untyped-def]
            return [Scored(1.0)]

    with pytest.raises(TrimtabError, match="reward short: gave 1 scores for 2"):
        WeightedReward([(Short(), 1.0)]).score(["p", "p"], ["x", "y"])


def test_what_a_part_logged_is_kept_under_its_name() -> None:
    def logs(completions: list[str], log_extra: Any) -> list[float]:
        log_extra("letters", [len(c) for c in completions])
        return [1.0] * len(completions)

    found = WeightedReward([(FunctionReward(logs), 2.0), (given("b", 1.0), 1.0)]).scored(["p"], ["xyz"])
    assert found[0].breakdown == {"logs/letters": 3, "logs": 1.0, "b": 1.0}
