"""The test of "a and b are exchangeable" over the same prompts: under it every difference may have had the
other sign.

The p-value is two-sided and mid-p (Lancaster 1961): P(|S| > |s|) + ½ P(|S| = |s|) over all patterns of signs, S
the sum of the differences; 1 where s is 0. The ordinary one counts the whole of P(|S| = |s|), and where few
prompts differ it rejects far less often than it says. Mid-p rejects a true null 5 % of the time on average over
what may be seen, and at most 7.7 % for a fixed number of prompts that differ by the same amount
(tests/evaluation/test_sign_flips.py: test_mid_p_rejects_as_often_as_it_says, by enumeration).

Differences that are multiples of one step, as of win rates, and those of few prompts are counted exactly.
Others are drawn.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import (
    N_RESAMPLES,
    Clusters,
    Floats,
    Interval,
    chunks,
    clean,
    mean_interval,
    totals,
)

_ENUMERATED = 14  # differences of which all 2^n patterns are looked at
_STEPS = 20_000  # steps that the sum may have where it is counted exactly


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the same prompts, its interval, and a two-sided p-value for "no difference"."""

    difference: float
    interval: Interval
    p_value: float
    n: int


def sign_flip_p_value(
    differences: ArrayLike, *, clusters: Clusters | None = None, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> float:
    """Two-sided mid-p of sign flips, never 0. clusters: those of a cluster are flipped together."""
    d_C, _ = totals(clean(differences), clusters)
    scale = float(np.abs(d_C).sum())
    d_C = d_C[np.abs(d_C) > 1e-12 * max(scale, 1e-300)]
    observed = abs(float(d_C.sum()))
    slack = 1e-9 * max(1.0, scale)  # rounding must not break a tie
    if observed <= slack:
        return 1.0
    steps = _in_steps(d_C)
    if steps is not None:
        return max(_exact(steps), sys.float_info.min)
    if d_C.size <= _ENUMERATED:
        sums = np.zeros(1)
        for size in np.abs(d_C):
            sums = np.concatenate([sums - size, sums + size])
        return _mid(np.abs(sums), observed, slack) / sums.size
    rng = np.random.default_rng(seed)
    counted = 0.0
    for m in chunks(n_resamples, d_C.size):
        signs = rng.integers(0, 2, (m, d_C.size), dtype=np.int8)
        counted += _mid(np.abs(2 * (signs @ d_C) - d_C.sum()), observed, slack)
    return (counted + 0.5) / (n_resamples + 1)  # the pattern that was seen is one of them, and a tie


def _mid(sums: Floats, observed: float, slack: float) -> float:
    """How many sums are beyond the observed one, those that equal it as half."""
    return float((sums > observed + slack).sum() + 0.5 * (np.abs(sums - observed) <= slack).sum())


def _in_steps(d_C: Floats) -> list[int] | None:
    """The sizes as multiples of the smallest one or of half of it, signs kept; None where they are none, or too
    many."""
    smallest = float(np.abs(d_C).min())
    for step in (smallest, smallest / 2):
        multiples = d_C / step
        if np.abs(multiples).sum() <= _STEPS and np.allclose(multiples, np.round(multiples), rtol=0, atol=1e-6):
            return [int(m) for m in np.round(multiples)]
    return None


def _exact(steps: list[int]) -> float:
    """Mid-p from the whole distribution of the sum: one convolution a difference."""
    width = sum(abs(step) for step in steps)
    chances = np.zeros(2 * width + 1)
    chances[width] = 1.0
    for step in map(abs, steps):
        moved = np.zeros_like(chances)
        moved[step:] += chances[:-step] / 2
        moved[:-step] += chances[step:] / 2
        chances = moved
    observed = abs(sum(steps))
    one_side = math.fsum(chances[width + observed + 1 :]) + float(chances[width + observed]) / 2
    return min(1.0, 2 * one_side)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Clusters | None = None,
    rate: bool = False,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> PairedDifference:
    """Mean of a - b over the same prompts, with its interval and sign-flip p-value. rate: outcomes from 0 to 1."""
    x, y = clean(a), clean(b)
    if x.size != y.size:
        raise ValueError(f"paired lists differ in length: {x.size} and {y.size}")
    d = x - y
    if rate:
        interval = rate_interval(d, bounds=(-1.0, 1.0), clusters=clusters, level=level)
    else:
        reach = (float(x.min() - y.max()), float(x.max() - y.min()))
        interval = mean_interval(d, clusters=clusters, reach=reach, level=level, seed=seed, n_resamples=n_resamples)
    p_value = sign_flip_p_value(d, clusters=clusters, seed=seed, n_resamples=n_resamples)
    return PairedDifference(float(d.mean()), interval, p_value, d.size)
