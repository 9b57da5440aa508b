"""Length-controlled win rate: what the win rate would be if both completions were equally long.

AlpacaEval 2 LC (Dubois et al. 2024, arXiv:2404.04475), the minimal GLM, fitted on one method's
comparisons, with y in [0, 1] (a tie is ½) and Δ = characters of the method - characters of the opponent:

    P(win) = σ(θ + φ · tanh(Δ / std Δ) + ψ · γ_x)          LC = mean_x σ(θ + ψ · γ_x)

γ_x, the difficulty of a prompt, is told by the *other* methods of the comparison (`prompt_difficulty`), where
there are three of them at least; or it is a column of the rows. The published one is of 805 prompts and no others.
Without any, the rate is that of a model with two terms, and says so.

What is won at equal length can be told only where lengths are about equal. The overlap is the smaller of two
shares: prompts on which the method's completion is at least as long as the opponent's, and on which it is at most
as long. Below 10 % the rate is withheld, below 20 % it is called extrapolated. It says what goes together with
length, not what length causes.

Departures from the paper: a weak ridge ½ · 0.1 · |β|² instead of the published L1 and
gamed baselines, so that an all-won or all-lost set stays finite (at 50/50 and n = 200 it moves θ by less
than 0.2 %); the interval refits the GLM in every resample, where the published standard error ignores
estimation; γ stays as it was told. statsmodels' GLM gives the same θ at ridge 0 (a test compares them); own Newton
steps, because a thousand refits of it take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from trimtab.evaluation.estimate import INDEPENDENT, THESE_SEEDS, Basis, Estimate, Interval95
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import Clusters, Floats, renumbered
from trimtab.formats import percent

RIDGE = 0.1
FEW_PROMPTS = 50
_MAX_STEP = 2.0  # a full Newton step from 0 may overshoot when the classes separate
_CHUNK = 500_000


LOGISTIC = "The outcome's logit is linear in tanh(Δlength / sd) and in the prompt's difficulty."
WITHHELD, EXTRAPOLATED = 0.10, 0.20
"""Overlaps of lengths below which the rate is not shown, or not without a word."""
Difficulty = Literal["none", "others", "column"]


@dataclass(frozen=True)
class LengthControlled:
    """value: the win rate at equal length. ci95: over prompts. n: prompts that were judged. units: clusters
    of them. varied: whether any outcome is another than the first. overlap: 0 to 1.
    length_effect: φ of the GLM, positive when the judge's preference rises with length; None where length cannot be
    told from the method. warnings: why it may mean little, or is withheld."""

    value: float
    ci95: Interval95
    n: int
    units: int
    varied: bool
    overlap: float
    length_effect: float | None
    warnings: list[str]

    @property
    def withheld(self) -> bool:
        """Whether lengths overlap too little for any number."""
        return self.overlap < WITHHELD

    @property
    def extrapolated(self) -> bool:
        """Whether lengths overlap so little that the number leans on the model's shape."""
        return self.overlap < EXTRAPOLATED

    @property
    def estimate(self) -> Estimate:
        """As any other number."""
        unit = "prompts" if self.units == self.n else "clusters of rows"
        assumptions = [INDEPENDENT.format(unit.capitalize()), THESE_SEEDS, LOGISTIC]
        method = "refitted_bootstrap" if self.varied else "wilson_effective_n"
        basis = Basis(method=method, unit=unit, units=self.units, assumptions=assumptions)
        return Estimate(value=self.value, ci95=self.ci95, n=self.n, basis=basis)


def overlap_of(delta: Floats) -> float:
    """The smaller of two shares: of differences that are at least 0, and at most 0."""
    return float(min((delta >= 0).mean(), (delta <= 0).mean()))


def length_term(delta_N: Floats, weights_BN: Floats) -> Floats:
    """tanh(Δ / std Δ) as [B, N]; std (ddof 1) under each row's own weights. Where all differences are equal there
    is nothing to learn about length: zeros."""
    n = weights_BN.sum(axis=1, keepdims=True)
    mean = weights_BN @ delta_N[:, None] / np.maximum(n, 1)
    variance = (weights_BN * (delta_N - mean) ** 2).sum(axis=1, keepdims=True) / np.maximum(n - 1, 1)
    std = np.sqrt(variance)
    varies = std > 1e-9 * max(1.0, float(np.abs(delta_N).max(initial=0.0)))
    return np.where(varies, np.tanh(delta_N / np.where(varies, std, 1.0)), 0.0)


def _design(delta_N: Floats, difficulty_N: Floats | None, weights_BN: Floats) -> Floats:
    """Features [1, tanh(Δ / std), γ] as [B, N, F]."""
    length = length_term(delta_N, weights_BN)
    columns = [np.ones_like(length), length]
    if difficulty_N is not None:
        columns.append(np.broadcast_to(difficulty_N, length.shape))
    return np.stack(columns, axis=-1)


def fit(x_BNF: Floats, y_N: Floats, weights_BN: Floats, *, ridge: float = RIDGE, max_steps: int = 100) -> Floats:
    """Ridge logistic regression with fractional y for B weightings at once, by Newton's method → [B, F]."""
    B, _, F = x_BNF.shape
    beta_BF = np.zeros((B, F))
    # A dropped column is all 0: without this its row of the Hessian is singular at ridge 0.
    penalty = np.eye(F) * max(ridge, 1e-10)
    for _ in range(max_steps):
        p_BN = scipy.special.expit(np.einsum("bnf,bf->bn", x_BNF, beta_BF))
        gradient = np.einsum("bnf,bn->bf", x_BNF, weights_BN * (y_N - p_BN)) - ridge * beta_BF
        curvature = np.einsum("bnf,bng->bfg", x_BNF * (weights_BN * p_BN * (1 - p_BN))[..., None], x_BNF)
        step = np.linalg.solve(curvature + penalty, gradient[..., None])[..., 0]
        size = np.abs(step).max(axis=1, keepdims=True)
        beta_BF = beta_BF + step * np.minimum(1.0, _MAX_STEP / np.maximum(size, 1e-12))
        if size.max() < 1e-8:
            break
    return beta_BF


def _predict(beta_BF: Floats, difficulty_N: Floats | None, weights_BN: Floats) -> Floats:
    if difficulty_N is None:
        return np.asarray(scipy.special.expit(beta_BF[:, 0]))
    p_BN = scipy.special.expit(beta_BF[:, :1] + beta_BF[:, 2:3] * difficulty_N)
    return np.asarray((weights_BN * p_BN).sum(axis=1) / weights_BN.sum(axis=1))


def _bootstrap(
    y_N: Floats,
    delta_N: Floats,
    difficulty_N: Floats | None,
    clusters_N: Clusters,
    ridge: float,
    seed: int,
    n_resamples: int,
) -> Floats:
    rng = np.random.default_rng(seed)
    n, units = y_N.size, int(clusters_N.max()) + 1
    chunk = max(1, _CHUNK // n)
    values = []
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        drawn = rng.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)
        weights = drawn[:, clusters_N]
        beta = fit(_design(delta_N, difficulty_N, weights), y_N, weights, ridge=ridge)
        values.append(_predict(beta, difficulty_N, weights))
    return np.concatenate(values)


def _columns(
    outcomes: ArrayLike,
    lengths: ArrayLike,
    opponent_lengths: ArrayLike,
    difficulty: ArrayLike | None,
    clusters: Clusters | None,
) -> tuple[Floats, Floats, Floats | None, Clusters]:
    y = np.asarray(outcomes, dtype=np.float64)
    delta = np.asarray(lengths, dtype=np.float64) - np.asarray(opponent_lengths, dtype=np.float64)
    gamma = None if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    units = np.arange(y.size) if clusters is None else clusters
    for name, column in (("lengths", delta), ("difficulty", gamma), ("clusters", units)):
        if column is not None and column.shape != y.shape:
            raise ValueError(f"{name}: {column.size} values for {y.size} outcomes")
    seen: NDArray[np.bool_] = ~np.isnan(y)
    if ((y[seen] < 0) | (y[seen] > 1)).any():
        raise ValueError("an outcome is outside 0 to 1")
    return y[seen], delta[seen], None if gamma is None else gamma[seen], renumbered(units[seen])


def length_controlled_win_rate(
    outcomes: ArrayLike | Sequence[float],
    lengths: ArrayLike | Sequence[int],
    opponent_lengths: ArrayLike | Sequence[int],
    *,
    difficulty: ArrayLike | None = None,
    clusters: Clusters | None = None,
    ridge: float = RIDGE,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = 1000,
) -> LengthControlled | None:
    """LC win rate with a bootstrap interval over prompts; NaN outcomes are missing; None if all are.

    outcomes: 1, ½, 0 or a soft preference, per prompt (`win_rate.outcomes`); lengths in characters. difficulty: a
    number a prompt, of any scale. clusters: rows that are resampled together.
    """
    y, delta, gamma, units = _columns(outcomes, lengths, opponent_lengths, difficulty, clusters)
    if y.size == 0:
        return None
    ones = np.ones((1, y.size))
    x = _design(delta, gamma, ones)
    beta = fit(x, y, ones, ridge=ridge)
    value = float(_predict(beta, gamma, ones)[0])
    varied = bool(np.ptp(y) > 0)
    if varied:
        resampled = _bootstrap(y, delta, gamma, units, ridge, seed, n_resamples)
        low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    else:  # no resample would differ: what could hide from so many prompts is that of the plain rate
        plain = rate_interval(y, clusters=units, level=level)
        low, high = min(value, plain.low), max(value, plain.high)
    constant = not x[..., 1].any()
    return LengthControlled(
        value=value,
        ci95=(float(low), float(high)),
        n=int(y.size),
        units=int(units.max()) + 1,
        varied=varied,
        overlap=overlap_of(delta),
        length_effect=None if constant else float(beta[0, 1]),
        warnings=_warnings(delta, constant),
    )


def _warnings(delta: Floats, constant: bool) -> list[str]:
    warnings = []
    if delta.size < FEW_PROMPTS:
        warnings.append(f"length-controlled win rate from {delta.size} prompts: fewer than {FEW_PROMPTS}")
    if constant and delta.any():
        warnings.append("every length difference is the same: length cannot be separated from the method")
    overlap = overlap_of(delta)
    shares = (
        f"its answers are longer than the opponent's on {percent(float((delta > 0).mean()))} of prompts and "
        f"shorter on {percent(float((delta < 0).mean()))}"
    )
    if overlap < WITHHELD:
        warnings.append(
            f"no win rate at equal length: {shares}, and below {WITHHELD:.0%} on one side nothing shows what it "
            "would win there"
        )
    elif overlap < EXTRAPOLATED:
        warnings.append(f"its win rate at equal length is extrapolated: {shares}")
    return warnings
