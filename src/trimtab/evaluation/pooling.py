"""Numbers of several training seeds, pooled into one.

A number is the mean over seeds of each seed's number. Two things could have come out otherwise, and each
has an interval of its own:

    between   other training seeds, these prompts: Student's t of the seeds' numbers, seeds − 1 degrees of
              freedom. Wide for two or three seeds, as it must be.
    within    other prompts, these seeds: over prompts, or clusters of them, of the prompt's average over seeds.

Neither is enough alone: all seeds answer the same prompts, so the first is blind to which prompts those are, and
the second to the seeds. From three seeds on the headline joins them, side by side and in quadrature (Zou & Donner
2008, "MOVER"):

    low = mean − √(between_low² + share · within_low²)      share = 1 − interaction / within, as variances

What prompts and seeds do together (chance in sampling, above all) is in both intervals, so it is taken out of
one. The headline is never narrower than either interval; of two seeds it is the smallest that holds both, since
Student's t of two numbers is so wide that the root covers more than 98 %. tests/evaluation/test_pooling.py
(test_coverage_of_the_headline) and benchmarks/coverage.py show its coverage; the latter for 2 to 20 seeds.

Comparisons: `p_value` is of sign flips over prompts of the averages over seeds, corrected as ever; the
seeds speak through the interval alone, which is of one pair and isn't corrected for the number of pairs.

Dimension suffixes: _P prompts, _S seeds, _C clusters of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.evaluation.estimate import (
    INDEPENDENT,
    OTHER_SEEDS,
    THESE_SEEDS,
    Basis,
    Estimate,
    Interval95,
    SeedSpread,
)
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import (
    N_RESAMPLES,
    Clusters,
    Floats,
    mean_interval,
    renumbered,
    t_interval,
    variance_of_mean,
)

NOTHING_VARIED = "Nothing varied, and no range is known: nothing bounds what other prompts would give."


@dataclass(frozen=True)
class Pooled:
    """mean: over seeds of their means over prompts. n: prompts. parts_P: a prompt's part; their mean is `mean`.
    clusters_P: each prompt's cluster; None where each is its own."""

    mean: float
    ci95: Interval95
    n: int
    parts_P: Floats  # noqa: N815
    spread: SeedSpread | None
    basis: Basis
    clusters_P: Clusters | None = None  # noqa: N815


def pool(
    values_PS: Floats,
    seeds: Sequence[int],
    *,
    rate: bool = False,
    bounds: Interval95 | None = None,
    reach: Interval95 | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Pooled | None:
    """Prompts × seeds, NaN where missing; None where nothing is known. rate: outcomes within bounds, which are 0 to
    1 unless given: −1 to 1 for their differences. bounds: what no mean of these numbers can be beyond; Student's
    interval of two seeds often is. reach: what no number of a prompt is beyond, where bounds do not say it.
    clusters: of each prompt's row, the number of its cluster; None where each row is independent.

    With one seed this is the mean over prompts, its interval, and no spread.
    A prompt's part is its average over seeds. Where some are missing, it is its share of that mean over
    seeds of means over prompts: mean + Σ_s (x_ps − mean_s) · P / (n_s S), over the seeds it has.
    """
    present_PS = ~np.isnan(values_PS)
    columns, rows = np.flatnonzero(present_PS.any(axis=0)), np.flatnonzero(present_PS.any(axis=1))
    x_PS, known_PS = (a[np.ix_(rows, columns)] for a in (values_PS, present_PS))
    seeds = [seeds[i] for i in columns.tolist()]
    if not seeds:
        return None
    clusters_P = None if clusters is None else renumbered(clusters[rows])
    if clusters_P is not None and int(clusters_P.max()) + 1 == len(rows):
        clusters_P = None
    counts_S, means_S = known_PS.sum(axis=0), np.nanmean(x_PS, axis=0)
    mean = float(means_S.mean())
    shares_PS = np.where(known_PS, x_PS - means_S, 0.0) * (len(x_PS) / counts_S)
    # The parts of one seed are its values: the sum would give them with its rounding.
    parts_P = x_PS[:, 0] if values_PS.shape[1] == 1 else mean + shares_PS.mean(axis=1)
    bounds = bounds or ((0.0, 1.0) if rate else None)
    if rate and bounds is not None:
        within = rate_interval(parts_P, bounds=bounds, clusters=clusters_P).pair()
    else:
        within = mean_interval(
            parts_P, clusters=clusters_P, reach=bounds or reach, seed=seed, n_resamples=n_resamples
        ).pair()
    spread = spread_of(dict(zip(seeds, means_S.tolist(), strict=True)), within, bounds)
    between = t_interval(means_S)
    ci = headline(
        within, between.pair() if between else None, mean, len(seeds), _share(shares_PS, parts_P - mean, clusters_P)
    )
    basis = _basis(parts_P, clusters_P, rate, within, several=spread is not None)
    return Pooled(mean, _clipped(ci, bounds), len(x_PS), parts_P, spread, basis, clusters_P)


def _share(shares_PS: Floats, parts_P: Floats, clusters_P: Clusters | None) -> float:
    """How much of the variance over prompts is not what prompts and seeds do together: 0 to 1."""
    S = shares_PS.shape[1]
    within = variance_of_mean(parts_P, clusters_P)
    if S < 2 or not within > 0:
        return 1.0
    left_PS = shares_PS - shares_PS.mean(axis=1, keepdims=True)
    interaction = sum(variance_of_mean(left_P, clusters_P) for left_P in left_PS.T) / (S * (S - 1))
    return float(np.clip(1 - interaction / within, 0.0, 1.0))


def _basis(parts_P: Floats, clusters_P: Clusters | None, rate: bool, within: Interval95, *, several: bool) -> Basis:
    """How the interval was made."""
    unit = "prompts" if clusters_P is None else "clusters of rows"
    varied = bool(np.ptp(parts_P) > 0)
    assumptions = [INDEPENDENT.format(unit.capitalize()), OTHER_SEEDS if several else THESE_SEEDS]
    if not varied and within[0] == within[1]:
        assumptions.append(NOTHING_VARIED)
    method = "wilson_effective_n" if rate else "bootstrap" if varied else "unseen"
    units = parts_P.size if clusters_P is None else int(clusters_P.max()) + 1
    return Basis(method="seeds" if several else method, unit=unit, units=units, assumptions=assumptions)


def spread_of(
    values: Mapping[int, float], within: Interval95 | None = None, bounds: Interval95 | None = None
) -> SeedSpread | None:
    """None for fewer than two seeds: they have no spread."""
    between = t_interval(list(values.values())) if values else None
    if between is None:
        return None
    return SeedSpread(
        values=dict(values),
        between_ci95=_clipped(between.pair(), bounds),
        within_ci95=within and _clipped(within, bounds),
    )


def headline(
    within: Interval95, between: Interval95 | None, mean: float, seeds: int, share: float = 1.0
) -> Interval95:
    """Both intervals as one, about their mean. share: how much of the variance within is not in that between."""
    if between is None:
        return within
    low, high = min(within[0], between[0]), max(within[1], between[1])
    if seeds < 3:
        return (low, high)
    below = float(np.sqrt((mean - between[0]) ** 2 + share * (mean - within[0]) ** 2))
    above = float(np.sqrt((between[1] - mean) ** 2 + share * (within[1] - mean) ** 2))
    return (min(low, mean - below), max(high, mean + above))


def _clipped(ci: Interval95, bounds: Interval95 | None) -> Interval95:
    return ci if bounds is None else (max(bounds[0], ci[0]), min(bounds[1], ci[1]))


def pool_overall(
    by_seed: Sequence[Estimate | None], seeds: Sequence[int], bounds: Interval95 | None = None
) -> Estimate | None:
    """What is no mean over prompts: the mean of the seeds' numbers, None where no seed has one.

    Its within interval, where the seeds have intervals, has their mean variance, as if averaging seeds took no
    noise out: too wide. One seed's number is as it is.
    """
    if len(by_seed) == 1:
        return by_seed[0]
    numbers = {seed: estimate for seed, estimate in zip(seeds, by_seed, strict=True) if estimate is not None}
    if not numbers:
        return None
    value = float(np.mean([estimate.value for estimate in numbers.values()]))
    intervals = [estimate.ci95 for estimate in numbers.values() if estimate.ci95 is not None]
    within = None
    if intervals:
        half = float(np.sqrt(np.mean([((high - low) / 2) ** 2 for low, high in intervals])))
        within = _clipped((value - half, value + half), bounds)
    spread = spread_of({seed: estimate.value for seed, estimate in numbers.items()}, within, bounds)
    between = t_interval([estimate.value for estimate in numbers.values()])
    ci = None
    if within is not None:
        ci = _clipped(headline(within, between.pair() if between else None, value, len(numbers)), bounds)
    n = min(estimate.n or 0 for estimate in numbers.values()) or None
    basis = next((estimate.basis for estimate in numbers.values() if estimate.basis is not None), None)
    if basis is not None and spread is not None:
        kept = [line for line in basis.assumptions if line != THESE_SEEDS]
        basis = basis.model_copy(update={"method": "seeds", "assumptions": [*kept, OTHER_SEEDS]})
    return Estimate(value=value, ci95=ci, n=n, seeds=spread, basis=basis)
