"""Win rate of a method against the opponent, from the judge's scores of the same prompts.

Per prompt the outcome is 1 (higher score), ½ (a tie) or 0. A tie is exact equality: judges quantise their
scores, and any tolerance is a choice, so it is an option that defaults to 0. A prompt where either side
has no score is missing: left out of n on both sides, counted, and bounded by its worst and best case.
The opponent itself has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from trimtab.evaluation.estimate import STORED, Interval95
from trimtab.evaluation.statistics import Floats

Scores = Sequence[float | None]


class WinCounts(BaseModel):
    """What stands behind a win rate. n: prompts where both sides have a score. ties: equal scores. missing: prompts
    where a score is missing. Over several seeds these count all of them.

    missing_bounds: the win rate if every missing prompt were lost, and if every one were won.
    p_value: of "method and opponent are exchangeable", by the test that compares methods.
    p_holm: corrected for as many claims as there are pairs of methods, or methods if they are more.
    """

    model_config = STORED
    n: int
    ties: int
    missing: int
    missing_bounds: Interval95 | None = None
    p_value: float | None = None
    p_holm: float | None = None


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


def count_outcomes(runs: Sequence[Floats], p_value: float | None) -> WinCounts:
    """Counts of all seeds together. runs: by seed, an outcome a prompt. p_value: of their pooled rate."""
    judged = [run[~np.isnan(run)] for run in runs]
    bounds = [
        (float(rated.sum()) / run.size, (float(rated.sum()) + run.size - rated.size) / run.size)
        for run, rated in zip(runs, judged, strict=True)
        if run.size
    ]
    return WinCounts(
        n=sum(int(rated.size) for rated in judged),
        ties=sum(int((rated == 0.5).sum()) for rated in judged),
        missing=sum(int(run.size - rated.size) for run, rated in zip(runs, judged, strict=True)),
        missing_bounds=(float(np.mean([low for low, _ in bounds])), float(np.mean([high for _, high in bounds])))
        if bounds
        else None,
        p_value=p_value,
    )
