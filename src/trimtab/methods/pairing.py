"""Pairs of a prompt's own samples, from their scores.

SPPO's win rates: Wu et al. 2024 (arXiv 2405.00675), Algorithm 1: the samples of a prompt stand for the policy, so
that P̂(y_i ≻ π) is the mean of P(y_i ≻ y_j) over them, y_i itself among them. We have a reward where SPPO has a
preference model: P(y_i ≻ y_j) = σ(s_i − s_j) (Bradley-Terry), as the authors' code makes it of PairRM's scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Pairing = Literal["best_worst", "best_random"]
Unpaired = Literal["fewer than two scores", "equal scores"]


def win_rates(scores: Sequence[float]) -> list[float]:
    """P̂ of each completion against a completion drawn from all of them: their mean is ½.

    scores: of one prompt, on the scale of log odds.
    """
    return [sum(_sigmoid(score - other) for other in scores) / len(scores) for score in scores]


def _sigmoid(x: float) -> float:
    """Without overflow, whatever the scale of a reward is."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True, slots=True)
class Pair:
    """Places of two samples, and their win rates against all that have a score."""

    chosen: int
    rejected: int
    win_rates: tuple[float, float]


def pair_of(
    scores: Sequence[float | None], pairing: Pairing, rng: np.random.Generator | None = None
) -> Pair | Unpaired:
    """The pair of a prompt's samples, or why there is none.

    scores: None where the reward failed: that sample is in no pair and no win rate. best_worst: of several best,
    or worst, the first. best_random: the rejected one is drawn by `rng` from all that score below the best.
    """
    present = {i: score for i, score in enumerate(scores) if score is not None}
    if len(present) < 2:
        return "fewer than two scores"
    chosen = max(present, key=lambda i: (present[i], -i))
    below = [i for i in present if present[i] < present[chosen]]
    if not below:
        return "equal scores"
    rejected = min(below, key=lambda i: (present[i], i))
    if pairing == "best_random":
        if rng is None:
            raise ValueError("best_random draws, and needs a generator")
        rejected = below[int(rng.integers(len(below)))]
    rates = dict(zip(present, win_rates(list(present.values())), strict=True))
    return Pair(chosen, rejected, (rates[chosen], rates[rejected]))
