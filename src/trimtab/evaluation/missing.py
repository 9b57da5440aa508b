"""What missing scores leave open: how far they could move a number, and whether they are missing at random.

A prompt without a score is left out of every rate. That is harmless where few are missing, or where chance decided
which. A judge that fails on long answers, or that was only asked about some, is neither.

Dimension suffixes: _P prompts, _S seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named

from trimtab.evaluation.estimate import Interval95
from trimtab.evaluation.statistics import Floats

if TYPE_CHECKING:
    from trimtab.evaluation.answers import Answers
    from trimtab.evaluation.metrics import Metric

MANY = 0.1
"""Share of prompts without a score from which on a claim is withheld that they could turn."""
ENOUGH = 20
"""Prompts with a score, and prompts without one, from which on their lengths are compared."""
NOT_BY_CHANCE = 0.001


def withheld(n: int | None, missing: int | None, bounds: Interval95 | None, even: float) -> bool:
    """Whether so many prompts lack a score that no claim is made: more than MANY, and enough to turn it.

    n, missing: prompts with a score and without. bounds: what the number could be if all were lost, or won. even:
    the value that says neither.
    """
    if not missing or bounds is None:
        return False
    return missing > MANY * (missing + (n or 0)) and bounds[0] <= even <= bounds[1]


def missing_of(metric: Metric, a_PS: Floats, b_PS: Floats) -> tuple[int | None, Interval95 | None]:
    """How many prompts lack a value of one side, and the least and the greatest mean of a − b that these could have
    made; no bounds but of rates. None where none is missing."""
    low_PS, high_PS = a_PS - b_PS, a_PS - b_PS
    lacking = int(np.isnan(low_PS).any(axis=1).sum())
    if not lacking:
        return None, None
    if metric.range is None or not metric.range.rate or not metric.judged:
        return lacking, None
    low_PS = np.nan_to_num(a_PS, nan=0.0) - np.nan_to_num(b_PS, nan=1.0)
    high_PS = np.nan_to_num(a_PS, nan=1.0) - np.nan_to_num(b_PS, nan=0.0)
    return lacking, (float(low_PS.mean()), float(high_PS.mean()))


def missing_by_length(answers: Answers) -> str | None:
    """A sentence where completions without a score are longer, or shorter, than those with one, by more than chance
    (Mann-Whitney's test); None where they are not, or where too few are missing to tell."""
    lengths, outcomes = answers.characters, answers.outcomes
    if lengths is None or outcomes is None:
        return None
    lacking, judged = lengths[np.isnan(outcomes)], lengths[~np.isnan(outcomes)]
    if min(lacking.size, judged.size) < ENOUGH:
        return None
    if scipy.stats.mannwhitneyu(lacking, judged).pvalue >= NOT_BY_CHANCE:
        return None
    return (
        f"the {lacking.size} completions without a score have {np.median(lacking):,.0f} characters (median), those "
        f"with one {np.median(judged):,.0f}: they are not missing at random, and the win rate is of the "
        f"{'shorter' if np.median(lacking) > np.median(judged) else 'longer'} ones"
    )
