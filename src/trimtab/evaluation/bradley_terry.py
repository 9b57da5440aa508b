"""Many methods at once: Bradley and Terry's model (1952) of who beats whom, from all pairs over the same prompts.

    P(a beats b) = σ(strength_a − strength_b)         the strengths' mean is 0

An outcome of a pair on a prompt is 1, ½ (a tie: half a win each way) or 0, over several seeds their mean. To
every pair that met, half a win each way is added, so that a method that never loses has a finite strength: log((n
+ ½) / ½) beside one other after n wins. Intervals resample prompts whole, with all of their pairs. Of two
methods with the same outcome on every prompt no resample differs: what could hide is drawn, a share of prompts with
another outcome from Jeffreys' posterior Beta(½, n + ½).

Hand-worked strengths, statsmodels' GLM and coverage: tests/evaluation/test_bradley_terry.py. Own Newton steps,
because a thousand refits of statsmodels take minutes; evalica 0.4.2 gives all the same 1e-6 where somebody never
loses.

Dimension suffixes: _P prompts, _K methods, _B resamples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named
from numpy.typing import NDArray

from trimtab.evaluation.estimate import INDEPENDENT, THESE_SEEDS, Basis, Estimate
from trimtab.evaluation.statistics import Clusters, Floats, renumbered

FEWEST = 4
"""Methods, the opponent among them, from which on they are ranked together: fewer are read from their pairs."""
PRIOR = 0.5
"""Wins that are added each way to every pair that met."""
ONE_SCALE = "Who beats whom follows from one strength a method: no method beats another by being its match."
_ENOUGH = 1e-10


@dataclass(frozen=True)
class Strength:
    """name: of a method. strength: log-odds against an average one of these methods. elo: 1000 + 400 / ln 10 of
    it."""

    name: str
    strength: Estimate
    elo: float


def outcomes_of_pairs(scores: Mapping[str, Floats], tolerance: float = 0.0) -> Floats:
    """[K, K, P]: what a method won of another, 1, ½ or 0, a mean over seeds; NaN where a score is missing.

    scores: of each method, [P, seeds]; one column for a method that no seed touches.
    """
    values = list(scores.values())
    found = np.full((len(values), len(values), values[0].shape[0]), np.nan)
    for i, a_PS in enumerate(values):
        for j, b_PS in enumerate(values):
            if i == j:
                continue
            difference = a_PS - b_PS
            won = np.where(np.abs(difference) <= tolerance, 0.5, (difference > 0).astype(np.float64))
            known = ~np.isnan(difference)
            counts = known.sum(axis=1)
            won_P = np.where(known, won, 0.0).sum(axis=1) / np.maximum(counts, 1)
            found[i, j] = np.where(counts > 0, won_P, np.nan)
    return found


def fit(
    wins_BKK: Floats, met_KK: NDArray[np.bool_] | None = None, *, prior: float = PRIOR, max_steps: int = 100
) -> Floats:
    """Strengths [B, K] with mean 0, by Newton's method. wins_BKK[b, i, j]: what i won of j. met_KK: the pairs that
    met, also where a resample has none of their prompts; without it those of each table."""
    met = (wins_BKK + wins_BKK.transpose(0, 2, 1)) > 0 if met_KK is None else met_KK[None]
    wins = wins_BKK + prior * met
    games = wins + wins.transpose(0, 2, 1)
    B, K = wins.shape[:2]
    beta = np.zeros((B, K))
    for _ in range(max_steps):
        p = scipy.special.expit(beta[:, :, None] - beta[:, None, :])
        gradient = (wins - games * p).sum(axis=2)
        weight = games * p * (1 - p)
        # Strengths are known up to a constant: 1 / K everywhere makes the matrix regular and leaves their mean.
        curvature = -weight + 1 / K
        curvature[:, np.arange(K), np.arange(K)] += weight.sum(axis=2)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < _ENOUGH:
            break
    return np.asarray(beta - beta.mean(axis=1, keepdims=True))


def bradley_terry(
    names: Sequence[str],
    outcomes_KKP: Floats,
    *,
    clusters: Clusters | None = None,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = 1000,
) -> list[Strength]:
    """The strongest first, each with its percentile interval over prompts. Prompts that no pair met on are left
    out; none at all where nobody met, or where not all are joined by who met whom."""
    seen = ~np.isnan(outcomes_KKP).all(axis=(0, 1))
    won = np.nan_to_num(outcomes_KKP[:, :, seen])
    total = won.sum(axis=2)
    met_KK = total + total.T > 0
    if not seen.any() or not _joined(met_KK):
        return []
    units = renumbered(np.arange(seen.size)[seen] if clusters is None else clusters[seen])
    count = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=n_resamples)[:, units].astype(np.float64)
    K = len(names)
    resampled = (weights @ won.reshape(K * K, -1).T).reshape(-1, K, K)
    _draw_unseen(resampled, outcomes_KKP[:, :, seen], units, rng)
    ends = np.quantile(fit(resampled, met_KK), [(1 - level) / 2, (1 + level) / 2], axis=0)
    strengths = fit(total[None])[0]
    n = int(seen.sum())
    unit = "prompts" if count == n else "clusters of rows"
    basis = Basis(
        method="refitted_bootstrap",
        unit=unit,
        units=count,
        assumptions=[INDEPENDENT.format(unit.capitalize()), THESE_SEEDS, ONE_SCALE],
    )
    found = [
        Strength(
            name,
            Estimate(
                value=float(value),
                ci95=(min(float(low), float(value)), max(float(high), float(value))),
                n=n,
                basis=basis,
            ),
            float(1000 + 400 / math.log(10) * value),
        )
        for name, value, low, high in zip(names, strengths, *ends, strict=True)
    ]
    return sorted(found, key=lambda one: -one.strength.value)


def _draw_unseen(wins_BKK: Floats, outcomes_KKP: Floats, units_P: Clusters, rng: np.random.Generator) -> None:
    """Where every outcome of a pair is the same, moves wins of each resample by what no prompt showed. They fall
    where all were won, and go either way where all were tied."""
    for i, j in itertools.combinations(range(outcomes_KKP.shape[0]), 2):
        met = ~np.isnan(outcomes_KKP[i, j])
        known, units = outcomes_KKP[i, j][met], np.unique(units_P[met]).size
        if known.size == 0 or np.ptp(known) > 0:
            continue
        share = float(known[0])
        games = wins_BKK[:, i, j] + wins_BKK[:, j, i]
        up = rng.random(games.size) < (0.5 if 0 < share < 1 else 1 - share)
        moved = games * rng.beta(0.5, units + 0.5, games.size) * np.where(up, 1 - share, -share)
        wins_BKK[:, i, j] += moved
        wins_BKK[:, j, i] -= moved


def _joined(met: np.ndarray) -> bool:
    """Whether everyone met everyone, if only by way of others."""
    return bool(scipy.sparse.csgraph.connected_components(met, directed=False)[0] == 1)
