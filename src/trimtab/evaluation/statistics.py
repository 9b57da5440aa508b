"""Intervals and p-values of means, for the comparison of methods.

The unit of resampling is the prompt, or a cluster of rows that are not independent of each other: several samples
of one prompt, or rows that share the value of a column. Everything is seeded and vectorised; memory is bounded by
working in chunks. Intervals say what other prompts would have given; what another training seed would have given is
pooling.py's. Rates have intervals of their own, in rates.py; p-values are in sign_flips.py.

Coverage is shown by tests/evaluation/test_statistics.py (test_coverage, test_rows_of_one_prompt_are_one_unit) and
printed by benchmarks/coverage.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Clusters = NDArray[np.intp]
"""Of each row, the number of its cluster, from 0 without gaps."""
N_RESAMPLES = 10_000
_CHUNK = 2_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float

    def pair(self) -> tuple[float, float]:
        """Both ends, as results.json holds them."""
        return (self.low, self.high)


def clean(values: ArrayLike) -> Floats:
    """As numbers. ValueError where there are none, or where one is missing."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError("expected a non-empty list of numbers")
    if not np.isfinite(x).all():
        raise ValueError("NaN or infinity among the values: leave missing ones out first")
    return x


def chunks(n_resamples: int, n: int) -> Iterator[int]:
    """How many resamples of n numbers are worked on at once."""
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        yield min(step, n_resamples - start)


def clusters_of(names: Sequence[str]) -> Clusters:
    """Numbers of clusters by the names of their rows, in the order in which they first come."""
    return renumbered(np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1])


def renumbered(clusters: NDArray[np.intp]) -> Clusters:
    """The same clusters, numbered from 0 in the order in which they first come: so that those of one row each are
    the rows in their order."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.intp)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse]


def totals(values: Floats, clusters: Clusters | None) -> tuple[Floats, Floats]:
    """Sums of the clusters, and how many rows each has; without clusters the rows themselves."""
    if clusters is None:
        return values, np.ones(values.size)
    if clusters.size != values.size:
        raise ValueError(f"clusters of {clusters.size} rows for {values.size} values")
    sums_C: Floats = np.bincount(clusters, weights=values).astype(np.float64)
    return sums_C, np.bincount(clusters).astype(np.float64)


def variance_of_mean(values: Floats, clusters: Clusters | None = None) -> float:
    """Σ_c (Σ_{i in c} (x_i − x̄))² / n² · C / (C − 1): s² / n where each row is its own cluster; NaN for one."""
    sums_C, _ = totals(values - values.mean(), clusters)
    count = sums_C.size
    return float((sums_C**2).sum() / values.size**2 * count / (count - 1)) if count > 1 else math.nan


def bootstrap_means(
    values: ArrayLike, *, clusters: Clusters | None = None, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Floats:
    """Means of `n_resamples` samples with replacement, of rows or of whole clusters."""
    sums_C, sizes_C = totals(clean(values), clusters)
    rng = np.random.default_rng(seed)
    draws = (
        rng.integers(0, sums_C.size, (m, sums_C.size), dtype=np.int32) for m in chunks(n_resamples, sums_C.size)
    )
    if np.ptp(sizes_C) == 0:
        return np.asarray(np.concatenate([sums_C[index].mean(axis=1) for index in draws]) / sizes_C[0])
    return np.concatenate([sums_C[index].sum(axis=1) / sizes_C[index].sum(axis=1) for index in draws])


def bootstrap_interval(
    values: ArrayLike,
    *,
    clusters: Clusters | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """Interval of the mean by the expanded percentile bootstrap (Hesterberg 2015, "What Teachers Should Know About
    the Bootstrap", 4.2): tails of Φ(−t √(C / (C − 1))) instead of 2.5 %, t Student's of C − 1 degrees of freedom,
    C rows or clusters, without which few of them give intervals that are too narrow."""
    x = clean(values)
    means = bootstrap_means(x, clusters=clusters, seed=seed, n_resamples=n_resamples)
    return expanded_percentiles(means, x.size if clusters is None else int(clusters.max()) + 1, level=level)


def expanded_percentiles(resampled: Floats, count: int, *, level: float = 0.95) -> Interval:
    """`bootstrap_interval` of anything, from what resamples of `count` rows or clusters gave."""
    tail = 0.0
    if count > 1:
        t = scipy.stats.t.ppf((1 + level) / 2, count - 1)
        tail = float(scipy.special.ndtr(-t * math.sqrt(count / (count - 1))))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mean_interval(
    values: ArrayLike,
    *,
    clusters: Clusters | None = None,
    reach: tuple[float, float] | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """By bootstrap; where all values are equal, by what could be among those that were not seen.

    reach: what no value is beyond, infinite where that is not known. Of C rows or clusters that all gave v, the
    share of others is at most q = 1 − ((1 − level) / 2)^(1 / C) at this level (3.7 / C for 95 %), so that the
    mean is within v + q (reach − v) on either side. Without a reach nothing is known of others: the interval is
    [v, v].
    """
    x = clean(values)
    if np.ptp(x) > 1e-12 * max(1.0, float(np.abs(x).max())):
        return bootstrap_interval(x, clusters=clusters, level=level, seed=seed, n_resamples=n_resamples)
    value = float(x.mean())
    count = x.size if clusters is None else int(clusters.max()) + 1
    unseen = 1 - ((1 - level) / 2) ** (1 / count)
    low, high = reach or (math.nan, math.nan)
    return Interval(
        value - unseen * (value - low) if math.isfinite(low) else value,
        value + unseen * (high - value) if math.isfinite(high) else value,
    )


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval | None:
    """Student's interval of the mean, x̄ ± t · s / √n with n − 1 degrees of freedom; None for one value."""
    x = clean(values)
    if x.size < 2:
        return None
    half = float(scipy.stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(float(x.mean()) - half, float(x.mean()) + half)


def _counts(successes: int, n: int) -> None:
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"not a share: {successes} of {n}")


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (1927): has width even at 0 of n and n of n."""
    _counts(successes, n)
    z = float(scipy.special.ndtri((1 + level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Interval(low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): running maximum of (m - i) · p_(i)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
