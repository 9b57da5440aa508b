"""Length-controlled win rate: what the win rate would be if both completions were equally long.

AlpacaEval 2 LC (Dubois et al. 2024, arXiv:2404.04475), the minimal GLM, fitted on one method's
comparisons, with y in [0, 1] (a tie is ½) and Δ = characters of the method - characters of the opponent:

    P(win) = σ(θ + φ · tanh(Δ / std Δ) + ψ · γ_x)          LC = mean_x σ(θ + ψ · γ_x)

γ_x, the difficulty of a prompt, is optional: there is none for a new data set, and indexing a published
one by row would be silently wrong. Departures: a weak ridge ½ · 0.1 · |β|² instead of the published L1 and
gamed baselines, so that an all-won or all-lost set stays finite (at 50/50 and n = 200 it moves θ by less
than 0.2 %); the interval refits the GLM in every resample, where the published standard error ignores
estimation. statsmodels' GLM gives the same θ at ridge 0 (a test compares them); own Newton steps, because
a thousand refits of it take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from trimtab.evaluation.estimate import Interval95
from trimtab.evaluation.statistics import Floats

RIDGE = 0.1
FEW_PROMPTS = 50
_MAX_STEP = 2.0  # a full Newton step from 0 may overshoot when the classes separate
_CHUNK = 500_000


class LengthControlled(NamedTuple):
    """value: the win rate at equal length. ci95: over prompts. n: prompts that were judged. length_effect: φ of the
    GLM, positive when the judge's preference rises with length; None where length cannot be told from the method.
    """

    value: float
    ci95: Interval95
    n: int
    length_effect: float | None
    warnings: list[str]


def _design(delta_N: Floats, difficulty_N: Floats | None, weights_BN: Floats) -> Floats:
    """Features [1, tanh(Δ / std), γ] as [B, N, F]; std (ddof 1) under each resample's own weights."""
    n = weights_BN.sum(axis=1, keepdims=True)
    mean = weights_BN @ delta_N[:, None] / n
    variance = (weights_BN * (delta_N - mean) ** 2).sum(axis=1, keepdims=True) / np.maximum(n - 1, 1)
    std = np.sqrt(variance)
    # All differences equal: there is nothing to learn about length, and the term is dropped.
    varies = std > 1e-9 * max(1.0, float(np.abs(delta_N).max(initial=0.0)))
    length = np.where(varies, np.tanh(delta_N / np.where(varies, std, 1.0)), 0.0)
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
    y_N: Floats, delta_N: Floats, difficulty_N: Floats | None, ridge: float, seed: int, n_resamples: int
) -> Floats:
    rng = np.random.default_rng(seed)
    n = y_N.size
    chunk = max(1, _CHUNK // n)
    values = []
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        beta = fit(_design(delta_N, difficulty_N, weights), y_N, weights, ridge=ridge)
        values.append(_predict(beta, difficulty_N, weights))
    return np.concatenate(values)


def _columns(
    outcomes: ArrayLike, lengths: ArrayLike, opponent_lengths: ArrayLike, difficulty: ArrayLike | None
) -> tuple[Floats, Floats, Floats | None]:
    y = np.asarray(outcomes, dtype=np.float64)
    delta = np.asarray(lengths, dtype=np.float64) - np.asarray(opponent_lengths, dtype=np.float64)
    gamma = None if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    for name, column in (("lengths", delta), ("difficulty", gamma)):
        if column is not None and column.shape != y.shape:
            raise ValueError(f"{name}: {column.size} values for {y.size} outcomes")
    seen: NDArray[np.bool_] = ~np.isnan(y)
    if ((y[seen] < 0) | (y[seen] > 1)).any():
        raise ValueError("an outcome is outside 0 to 1")
    return y[seen], delta[seen], None if gamma is None else gamma[seen]


def length_controlled_win_rate(
    outcomes: ArrayLike | Sequence[float],
    lengths: ArrayLike | Sequence[int],
    opponent_lengths: ArrayLike | Sequence[int],
    *,
    difficulty: ArrayLike | None = None,
    ridge: float = RIDGE,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = 1000,
) -> LengthControlled | None:
    """LC win rate with a bootstrap interval over prompts; NaN outcomes are missing; None if all are.

    outcomes: 1, ½, 0 or a soft preference, per prompt (`win_rate.outcomes`); lengths in characters.
    """
    y, delta, gamma = _columns(outcomes, lengths, opponent_lengths, difficulty)
    if y.size == 0:
        return None
    ones = np.ones((1, y.size))
    x = _design(delta, gamma, ones)
    beta = fit(x, y, ones, ridge=ridge)
    resampled = _bootstrap(y, delta, gamma, ridge, seed, n_resamples)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    warnings = []
    if y.size < FEW_PROMPTS:
        warnings.append(f"length-controlled win rate from {y.size} prompts: fewer than {FEW_PROMPTS}")
    constant = not x[..., 1].any()
    if constant and delta.any():
        warnings.append("every length difference is the same: length cannot be separated from the method")
    return LengthControlled(
        value=float(_predict(beta, gamma, ones)[0]),
        ci95=(float(low), float(high)),
        n=int(y.size),
        length_effect=None if constant else float(beta[0, 1]),
        warnings=warnings,
    )
