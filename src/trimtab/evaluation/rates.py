"""Intervals of rates: means of outcomes from 0 to 1, and differences of two rates over the same prompts.

Wilson's score interval (1927) at the effective number of prompts (Korn & Graubard 1998; Dean & Pagano 2015),

    n* = n / (r · deff) · (z / t)²         low, high = Wilson(mean, n*)

r is the outcomes' variance as a share of mean · (1 − mean): 1 for won and lost, less where some are tied. deff is
the variance of the mean with clusters as a multiple of that without; t is Student's of C − 1 degrees of freedom,
and z / t is 1 where each row is its own cluster. Both ratios are estimated with z² more rows, half of them won
and half lost, and for deff with rows that are wholly alike within clusters: where nothing varied, neither ratio
can be told from the rows alone. So 50 ties leave room for 3.8 points on either side (those that could hide from
50 prompts: 3.7).

Wilson's coverage falls to 84 % at rates of about 0.18 / n. Brown, Cai & DasGupta (2001) mend that by one-sided 5
% limits for the smallest counts; here the lower end of a rate up to a half is at most Clopper and Pearson's
one-sided 4 % limit, and the upper end of one above likewise, which mends smaller dips too. No outcomes have a
lower upper end than when all are lost, nor a higher lower end than when all are won.

Coverage by enumeration: tests/evaluation/test_rates.py (test_coverage_by_enumeration,
test_more_wins_never_lower_a_bound, test_ties_by_enumeration); of clusters by simulation, benchmarks/coverage.py.
"""

from __future__ import annotations

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named
from numpy.typing import ArrayLike

from trimtab.evaluation.statistics import Clusters, Floats, Interval, clean, totals, variance_of_mean


def score_interval(share: float, n: float, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share of n, both of which may be fractions; its ends corrected near 0 and 1."""
    z = float(scipy.special.ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    won, lost, tail = share * n, (1 - share) * n, 0.8 * (1 - level)
    low = 0.0 if won <= 0 else centre - half
    high = 1.0 if lost <= 0 else centre + half
    if 0 < share <= 0.5:
        low = min(low, scipy.special.betaincinv(won, lost + 1, tail))
    if 0.5 <= share < 1:
        high = max(high, scipy.special.betaincinv(won + 1, lost, 1 - tail))
    return Interval(max(0.0, float(low)), min(1.0, float(high)))


def effective_n(outcomes: Floats, clusters: Clusters | None = None, *, level: float = 0.95) -> float:
    """n*: of how many won-or-lost, independent prompts a rate has this doubt. outcomes: most of them 0 to 1."""
    n, mean = outcomes.size, float(np.clip(outcomes.mean(), 0, 1))
    z2 = float(scipy.special.ndtri((1 + level) / 2)) ** 2
    padded = (n * mean + z2 / 2) / (n + z2)
    square = (float(((outcomes - 0.5) ** 2).sum()) + z2 / 4) / (n + z2) - (padded - 0.5) ** 2
    n_star = n * padded * (1 - padded) / square
    return n_star / _design_effect(outcomes, clusters, level)


def _design_effect(outcomes: Floats, clusters: Clusters | None, level: float) -> float:
    """deff · (t / z)²: 1 where each row is its own cluster."""
    if clusters is None or int(clusters.max()) + 1 == outcomes.size:
        return 1.0
    _, sizes_C = totals(outcomes, clusters)
    alike = float((sizes_C**2).sum() / outcomes.size)
    if sizes_C.size == 1:
        return alike
    z = float(scipy.special.ndtri((1 + level) / 2))
    t = float(scipy.stats.t.ppf((1 + level) / 2, sizes_C.size - 1))
    squares = float(((outcomes - outcomes.mean()) ** 2).sum())
    plain = variance_of_mean(outcomes)
    clustered = variance_of_mean(outcomes, clusters) / plain if plain > 0 else alike
    return (squares * clustered + z * z * alike) / (squares + z * z) * (t / z) ** 2


def rate_interval(
    outcomes: ArrayLike,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    clusters: Clusters | None = None,
    level: float = 0.95,
) -> Interval:
    """Of the mean of outcomes, whose values are within bounds: (0, 1), or (−1, 1) for differences of two of
    them."""
    low, high = bounds
    y = (clean(outcomes) - low) / (high - low)
    n_star = effective_n(y, clusters, level=level)
    found = score_interval(float(np.clip(y.mean(), 0, 1)), n_star, level=level)
    lost = score_interval(0.0, effective_n(np.zeros(y.size), clusters, level=level), level=level)
    ends = min(found.low, 1 - lost.high), max(found.high, lost.high)
    return Interval(*(float(low + end * (high - low)) for end in ends))
