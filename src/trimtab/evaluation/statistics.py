"""Intervals and p-values for the comparison of methods.

The unit of resampling is always the prompt. Everything is seeded and vectorised; memory is bounded by
working in chunks. With one row a prompt, intervals say what other prompts would have given; what another
training seed would have given is pooling.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
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


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the same prompts, its interval, and a two-sided p-value for "no difference"."""

    difference: float
    interval: Interval
    p_value: float
    n: int


def _clean(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError("expected a non-empty list of numbers")
    if not np.isfinite(x).all():
        raise ValueError("NaN or infinity among the values: leave missing ones out first")
    return x


def _chunks(n_resamples: int, n: int) -> Iterator[int]:
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        yield min(step, n_resamples - start)


def bootstrap_means(values: ArrayLike, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Floats:
    """Means of `n_resamples` samples with replacement."""
    x = _clean(values)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, x.size, (m, x.size), dtype=np.int32) for m in _chunks(n_resamples, x.size))
    return np.concatenate([x[index].mean(axis=1) for index in draws])


def bootstrap_interval(
    values: ArrayLike,
    *,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """Interval of the mean by the bootstrap: percentile, or BCa (Efron 1987) for skewed values."""
    x = _clean(values)
    means = bootstrap_means(x, seed=seed, n_resamples=n_resamples)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca" and np.ptp(x) > 0:
        below = (means < x.mean()).mean() + 0.5 * (means == x.mean()).mean()
        z0 = scipy.special.ndtri(np.clip(below, 1 / n_resamples, 1 - 1 / n_resamples))
        centred = x - x.mean()  # the jackknife of a mean: influence values are the centred values
        acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
        z = z0 + scipy.special.ndtri(tails)
        tails = scipy.special.ndtr(z0 + z / (1 - acceleration * z))
    low, high = np.quantile(means, tails)
    return Interval(float(low), float(high))


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval | None:
    """Student's interval of the mean, x̄ ± t · s / √n with n − 1 degrees of freedom; None for one value."""
    x = _clean(values)
    if x.size < 2:
        return None
    half = float(scipy.stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(float(x.mean()) - half, float(x.mean()) + half)


def sign_flip_p_value(differences: ArrayLike, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> float:
    """Two-sided sign-flip permutation test of "a and b are exchangeable": (b + 1) / (n + 1), never 0.

    b counts the random sign patterns whose |mean| is at least the observed |mean|.
    """
    d = _clean(differences)
    rng = np.random.default_rng(seed)
    observed = abs(d.sum()) - 1e-9 * max(1.0, float(np.abs(d).sum()))  # rounding must not break a tie
    at_least = 0
    for m in _chunks(n_resamples, d.size):
        signs = rng.integers(0, 2, (m, d.size), dtype=np.int8)
        at_least += int((np.abs(2 * (signs @ d) - d.sum()) >= observed).sum())
    return (at_least + 1) / (n_resamples + 1)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> PairedDifference:
    """Mean of a - b over the same prompts: percentile interval, sign-flip p-value."""
    x, y = _clean(a), _clean(b)
    if x.size != y.size:
        raise ValueError(f"paired lists differ in length: {x.size} and {y.size}")
    d = x - y
    interval = bootstrap_interval(d, level=level, seed=seed, n_resamples=n_resamples)
    p_value = sign_flip_p_value(d, seed=seed, n_resamples=n_resamples)
    return PairedDifference(float(d.mean()), interval, p_value, d.size)


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
