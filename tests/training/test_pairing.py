"""Pairs and win rates of a prompt's samples, from scores that are given."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.groups import CompletionGroup, pack
from trimtab.methods.dpo import loss_inputs
from trimtab.methods.pairing import Pair, pair_of, win_rates


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_best_against_the_worst() -> None:
    """Sample 2 failed: it is in no pair, and in no win rate. P̂ of 3 against {1, 3, 2}: σ(2), ½, σ(1)."""
    found = pair_of([1.0, 3.0, None, 2.0], "best_worst")
    best = (sigmoid(2) + 0.5 + sigmoid(1)) / 3
    worst = (0.5 + sigmoid(-2) + sigmoid(-1)) / 3
    assert isinstance(found, Pair)
    assert (found.chosen, found.rejected) == (1, 0)
    assert found.win_rates == pytest.approx((best, worst))


def test_of_several_best_or_worst_the_first() -> None:
    found = pair_of([0.0, 2.0, 0.0, 2.0], "best_worst")
    assert isinstance(found, Pair)
    assert (found.chosen, found.rejected) == (1, 0)


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([1.0, 1.0, 1.0], "equal scores"),
        ([None, 1.0, 1.0], "equal scores"),
        ([None, 1.0, None], "fewer than two scores"),
        ([None, None], "fewer than two scores"),
    ],
)
def test_no_pair_is_made_of(scores: list[float | None], why: str) -> None:
    rng = np.random.default_rng(0)
    assert pair_of(scores, "best_worst") == pair_of(scores, "best_random", rng) == why


def test_a_random_one_of_those_below_the_best() -> None:
    """Places 0, 2 and 4 score lower; 3 ties with the best. Each of the three in a third of 3,000 draws."""
    rng = np.random.default_rng(0)
    drawn: Counter[int] = Counter()
    for _ in range(3000):
        found = pair_of([1.0, 5.0, 0.0, 5.0, 1.0], "best_random", rng)
        assert isinstance(found, Pair)
        assert found.chosen == 1
        drawn[found.rejected] += 1
    assert set(drawn) == {0, 2, 4}
    assert all(abs(count - 1000) < 4 * math.sqrt(3000 * 2 / 9) for count in drawn.values())


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=6))
def test_win_rates_are_against_a_completion_drawn_from_all(scores: list[float]) -> None:
    """By enumeration of the opponent; P(a ≻ b) + P(b ≻ a) = 1 makes their mean ½, whatever the scale is."""
    found = win_rates(scores)
    assert sum(found) / len(found) == pytest.approx(0.5)
    assert all(0 <= rate <= 1 for rate in found)
    for ours, rate in zip(scores, found, strict=True):
        odds = [math.inf if ours - theirs > 700 else math.exp(ours - theirs) for theirs in scores]
        wins = [1.0 if o == math.inf else o / (1 + o) for o in odds]
        assert rate == pytest.approx(sum(wins) / len(scores), abs=1e-12)
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    assert [found[i] for i in order] == sorted(found)


def test_a_loss_is_given_the_rates_of_chosen_and_rejected() -> None:
    """The first completion's and the last one's, whatever lies between."""
    groups = [
        CompletionGroup((1,), ((2,), (3, 4)), scores=(0.9, 0.2)),
        CompletionGroup((1, 5), ((2,), (3,), (4,)), scores=(0.7, 0.5, 0.1)),
    ]
    batch = pack(groups)
    found = loss_inputs(batch, torch.zeros(len(batch.target)), None)
    assert found["chosen_win_rates"].tolist() == pytest.approx([0.9, 0.7])
    assert found["rejected_win_rates"].tolist() == pytest.approx([0.2, 0.1])
