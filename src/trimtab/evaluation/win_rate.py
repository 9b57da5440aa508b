"""Win rate of a method against the opponent, from the judge's scores of the same prompts.

Per prompt the outcome is 1 (higher score), ½ (a tie) or 0. A tie is exact equality: judges quantise their
scores, and any tolerance is a choice, so it is an option that defaults to 0. A prompt where either side
has no score is missing: left out of n on both sides, counted, and bounded by its worst and best case.
The opponent against itself is all ties: ½.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trimtab.evaluation.results import WinRate
from trimtab.evaluation.statistics import (
    N_RESAMPLES,
    Floats,
    Interval,
    bootstrap_interval,
    sign_flip_p_value,
    wilson_interval,
)

Scores = Sequence[float | None]


def outcomes(scores: Scores, opponent: Scores, *, tolerance: float = 0.0) -> Floats:
    """1, ½ or 0 for each prompt; NaN where either score is missing."""
    if len(scores) != len(opponent):
        raise ValueError(f"scores of {len(scores)} prompts against {len(opponent)} of the opponent")
    result = np.full(len(scores), np.nan)
    for i, (s, o) in enumerate(zip(scores, opponent, strict=True)):
        if s is None or o is None:
            continue
        if not (math.isfinite(s) and math.isfinite(o)):
            raise ValueError(f"prompt {i}: a score is NaN or infinite; a failed score is None")
        result[i] = 0.5 if s == o or abs(s - o) <= tolerance else float(s > o)
    return result


def rate_interval(
    scored: Floats, *, level: float = 0.95, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Of the mean of outcomes: by bootstrap, or Wilson's when all are won or all lost."""
    # All won or all lost: every resample is the same and the bootstrap would claim certainty.
    if scored.max() == 0 or scored.min() == 1:
        return wilson_interval(int(scored.sum()), scored.size, level=level)
    return bootstrap_interval(scored, level=level, seed=seed, n_resamples=n_resamples)


def win_rate(
    scores: Scores,
    opponent: Scores,
    *,
    tolerance: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> WinRate:
    """Win rates with ties as half (the headline), strictly, and with ties as wins."""
    each = outcomes(scores, opponent, tolerance=tolerance)
    scored = each[~np.isnan(each)]
    missing, n = int(each.size - scored.size), int(scored.size)
    won = float(scored.sum())
    bounds = (won / each.size, (won + missing) / each.size) if each.size else None
    if n == 0:
        return WinRate(
            ties_half=None,
            strict=None,
            ties_as_wins=None,
            ci95=None,
            n=0,
            ties=0,
            missing=missing,
            missing_bounds=bounds,
        )
    return WinRate(
        ties_half=won / n,
        strict=float((scored == 1).mean()),
        ties_as_wins=float((scored >= 0.5).mean()),
        p_value=sign_flip_p_value(scored - 0.5, seed=seed, n_resamples=n_resamples),
        ci95=rate_interval(scored, level=level, seed=seed, n_resamples=n_resamples).pair(),
        n=n,
        ties=int((scored == 0.5).sum()),
        missing=missing,
        missing_bounds=bounds,
    )
