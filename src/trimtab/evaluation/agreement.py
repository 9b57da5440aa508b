"""How far raters agree, beyond chance: Cohen's kappa and Krippendorff's alpha, with intervals over prompts.

Both are 1 where all agree and 0 where agreement is what chance would give.

    kappa = (p_o − p_e) / (1 − p_e)                        Cohen 1960: of two raters, categories alone
    alpha = 1 − (n − 1) Σ o_ck δ²_ck / Σ n_c n_k δ²_ck     Krippendorff 2011: any number of raters, with gaps

o_ck: pairs of values within units, each unit's pairs divided by its number of values less one; n_c = Σ_k o_ck;
δ² is 1 for values that differ ("nominal"), or (c − k)² ("interval"): with outcomes 0, ½ and 1 a win beside a tie is
then a quarter of a disagreement. Intervals resample clusters of units (Zapf et al. 2016 for alpha) and take
expanded percentiles (statistics.py). Where all units agree, or none, resamples hardly differ and hide what was not
seen. The interval then reaches to the number that the pairs would have with as little agreement as its own interval
allows (or as much), where the raters' values are joined by chance in those that are otherwise. Worked examples:
tests/evaluation/test_agreement.py.

Dimension suffixes: _U units, _C clusters of units, _V values, _B resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.evaluation.estimate import INDEPENDENT, Basis, Estimate
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import Clusters, Floats, Interval, chunks, expanded_percentiles

Level = Literal["nominal", "interval"]
OUTCOMES = np.array([0.0, 0.5, 1.0])
"""Lost, tied and won."""
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Agreement:
    """raw: share of comparisons that say the same. kappa: of two raters; None where it is not defined. alpha: by
    `level` interval; None where all values are the same."""

    raw: Estimate
    kappa: Estimate | None
    alpha: Estimate | None


def categories(outcomes: Floats) -> NDArray[np.intp]:
    """0 (lost), 1 (tied) or 2 (won): a share of votes or a preference by the side of a half that it is on."""
    return (1 + np.sign(np.round(outcomes - 0.5, 9))).astype(np.intp)


def kappa(confusion: Floats) -> Floats:
    """Cohen's kappa of tables [..., V, V], the first rater's values by the second's; NaN where both use one."""
    total = confusion.sum(axis=(-2, -1))
    observed = np.trace(confusion, axis1=-2, axis2=-1) / total
    expected = (confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan))


def coincidences(counts_UV: Floats) -> Floats:
    """Pairs of values within each unit, [U, V, V]; none of a unit with one. counts_UV: how many raters gave which
    value."""
    raters_U = counts_UV.sum(axis=1)
    pairs = counts_UV[:, :, None] * counts_UV[:, None, :]
    same = np.arange(counts_UV.shape[1])
    pairs[:, same, same] -= counts_UV
    return np.asarray(pairs / np.maximum(raters_U - 1, 1)[:, None, None])


def alpha(pairs: Floats, values: Floats, level: Level = "interval") -> Floats:
    """Krippendorff's alpha of coincidences [..., V, V], summed over units; NaN where all values are the same."""
    apart = values[:, None] != values[None, :]
    distance = apart.astype(float) if level == "nominal" else (values[:, None] - values[None, :]) ** 2
    totals = pairs.sum(axis=-1)
    observed = (pairs * distance).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(expected > 0, 1 - (totals.sum(axis=-1) - 1) * observed / expected, np.nan))


def of_two(
    first: Floats, second: Floats, clusters: Clusters, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Agreement:
    """Of two raters that both gave each of these outcomes, 0 to 1: as of a judge and each vote."""
    a, b = categories(first), categories(second)
    table_U = np.zeros((a.size, 3, 3))
    table_U[np.arange(a.size), a, b] = 1.0
    counts_UV = np.zeros((a.size, 3))
    np.add.at(counts_UV, (np.arange(a.size), a), 1.0)
    np.add.at(counts_UV, (np.arange(a.size), b), 1.0)
    same_U = (a == b).astype(float)
    raw = rate_interval(same_U, clusters=clusters)
    return Agreement(
        _estimate(float(same_U.mean()), raw.pair(), a.size, clusters, "wilson_effective_n"),
        _resampled(kappa, table_U, clusters, seed, n_resamples, raw),
        _resampled(_alpha_of_outcomes, coincidences(counts_UV), clusters, seed, n_resamples, raw),
    )


def of_many(
    counts_UV: Floats, clusters: Clusters, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Agreement | None:
    """Of raters who each gave some units an outcome. counts_UV: how many said lost, tied and won. None where no
    unit has two. Cohen's kappa is of two raters, so there is none."""
    several = counts_UV.sum(axis=1) > 1
    if not several.any():
        return None
    counts_UV, clusters = counts_UV[several], np.unique(clusters[several], return_inverse=True)[1]
    pairs_U = coincidences(counts_UV)
    raters_U = counts_UV.sum(axis=1)
    same_U = np.trace(pairs_U, axis1=1, axis2=2) / raters_U
    raw = rate_interval(same_U, clusters=clusters)
    return Agreement(
        _estimate(float(same_U.mean()), raw.pair(), same_U.size, clusters, "wilson_effective_n"),
        None,
        _resampled(_alpha_of_outcomes, pairs_U, clusters, seed, n_resamples, raw),
    )


def _alpha_of_outcomes(pairs: Floats) -> Floats:
    return alpha(pairs, OUTCOMES)


def _resampled(
    of: Callable[[Floats], Floats],
    tables_U: Floats,
    clusters: Clusters,
    seed: int,
    n_resamples: int,
    raw: Interval,
) -> Estimate | None:
    """A function of summed tables, with its interval over clusters; None where it is not defined. raw: of the
    share of units that agree."""
    total = tables_U.sum(axis=0)
    value = float(of(total))
    if np.isnan(value):
        return None
    count = int(clusters.max()) + 1
    width = tables_U[0].size
    tables_C = np.zeros((count, width))
    np.add.at(tables_C, clusters, tables_U.reshape(-1, width))
    rng = np.random.default_rng(seed)
    found = []
    for size in chunks(n_resamples, count):
        weights_BC = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(float)
        found.append(of((weights_BC @ tables_C).reshape(size, *tables_U.shape[1:])))
    values = np.concatenate(found)
    values = values[~np.isnan(values)]
    ends = expanded_percentiles(values, count).pair() if count > 1 and values.size else None
    if ends is not None:
        hidden = [float(of(table)) for table in _otherwise(total, raw)]
        every = [*ends, value, *(number for number in hidden if not np.isnan(number))]
        ends = min(every), max(every)
    return _estimate(value, ends, len(tables_U), clusters, "bootstrap")


def _otherwise(total_VV: Floats, raw: Interval) -> list[Floats]:
    """Where all agree, the same many pairs of which as many disagree as may be hidden; where none does, of which as
    many agree. Nothing elsewhere."""
    count = total_VV.sum()
    agreeing = np.trace(total_VV)
    chance_VV = np.outer(total_VV.sum(axis=1), total_VV.sum(axis=0))
    if np.isclose(agreeing, count):
        np.fill_diagonal(chance_VV, 0.0)
        share = 1 - raw.low
    elif np.isclose(agreeing, 0.0):
        chance_VV = np.diag(np.diag(chance_VV))
        share = raw.high
    else:
        return []
    return [(1 - share) * total_VV + share * count * chance_VV / chance_VV.sum()] if chance_VV.sum() > 0 else []


def _estimate(value: float, ends: tuple[float, float] | None, n: int, clusters: Clusters, method: str) -> Estimate:
    units = int(clusters.max()) + 1
    unit = "prompts" if units == n else "clusters of rows"
    basis = Basis(method=method, unit=unit, units=units, assumptions=[INDEPENDENT.format(unit.capitalize())])
    return Estimate(value=value, ci95=ends, n=n, basis=basis if ends is not None else None)
