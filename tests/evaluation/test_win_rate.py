"""Win rates worked out by hand, and a published case."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.outputs_of import make
from trimtab.evaluation.answers import Answers, Options
from trimtab.evaluation.estimate import Interval95
from trimtab.evaluation.method_numbers import estimate_of, win_counts
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.win_rate import Scores, outcomes

MAYBE = st.one_of(st.none(), st.integers(-3, 3).map(float))


@dataclass
class Rated:
    """A win rate, counted in three ways, and what stands behind it."""

    ties_half: float | None
    strict: float | None
    ties_as_wins: float | None
    ci95: Interval95 | None
    n: int
    ties: int
    missing: int
    missing_bounds: Interval95 | None


def win_rate(scores: Scores, opponent: Scores, **options: Any) -> Rated:
    runs = [Answers(make("a", scores), make("b", opponent), options=Options(**options))]
    names = ("win_rate", "win_rate_strict", "win_rate_ties_as_wins")
    half, strict, as_wins = (estimate_of(METRICS[name], runs, [0], runs[0].options) for name in names)
    values = [estimate and estimate.value for estimate in (half, strict, as_wins)]
    counts = win_counts(runs, [0], runs[0].options)
    assert counts is not None
    return Rated(*values, half and half.ci95, counts.n, counts.ties, counts.missing, counts.missing_bounds)


def test_by_hand() -> None:
    """Won, lost, tie, tie, won, and two missing: n = 5, half (2 + 1) / 5, strict 2/5, ties as wins 4/5;
    the missing lost (2 + 1) / 7, the missing won (2 + 1 + 2) / 7."""
    w = win_rate([2.0, 0.0, 1.0, 5.0, 3.0, None, 1.0], [1.0, 1.0, 1.0, 5.0, -3.0, 1.0, None])
    assert (w.ties_half, w.strict, w.ties_as_wins) == pytest.approx((0.6, 0.4, 0.8))
    assert (w.n, w.ties, w.missing) == (5, 2, 2)
    assert w.missing_bounds == pytest.approx((3 / 7, 5 / 7))


@pytest.mark.parametrize(
    ("method", "strict", "half", "as_wins"), [("sft", 0.300, 0.330, 0.36), ("dpo", 0.425, 0.4325, 0.44)]
)
def test_published_scores(shared: Path, method: str, strict: float, half: float, as_wins: float) -> None:
    with (shared / "data/nemotron_scores/paper_eval_scores.csv").open() as f:
        rows = [r for r in csv.DictReader(f) if r["method"] == method]
    w = win_rate([float(r["score_model"]) for r in rows], [float(r["score_reference"]) for r in rows])
    assert (w.strict, w.ties_half, w.ties_as_wins) == pytest.approx((strict, half, as_wins), abs=1e-12)
    assert w.n == 200
    assert w.ci95 is not None
    assert w.ci95[0] < half < w.ci95[1]


def test_failed_scores_never_count_as_numbers() -> None:
    """Every real score is negative here: a failure taken for 0.0 would win."""
    w = win_rate([None, -5.0], [-3.0, -4.0])
    assert (w.ties_half, w.n, w.missing) == (0.0, 1, 1)
    with pytest.raises(ValueError, match="NaN"):
        outcomes([float("nan")], [1.0])


def test_nothing_scored_has_no_win_rate() -> None:
    w = win_rate([None, None], [1.0, 2.0])
    assert (w.ties_half, w.strict, w.ci95, w.n, w.missing) == (None, None, None, 0, 2)
    assert w.missing_bounds == (0.0, 1.0)


def test_a_clean_sweep_is_not_certain() -> None:
    """10 of 10: the bootstrap would say 1 to 1; Wilson's lower limit is 10 / (10 + 3.8415)."""
    w = win_rate([1.0] * 10, [0.0] * 10)
    assert w.ci95 == (pytest.approx(0.72247, abs=1e-4), 1.0)


def test_tolerance_is_an_option() -> None:
    assert win_rate([1.05], [1.0]).ties == 0
    assert win_rate([1.05], [1.0], tolerance=0.1).ties == 1


def test_coverage_of_the_interval() -> None:
    """P(win) 0.5, P(tie) 0.2, P(loss) 0.3: true win rate 0.6."""
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        scores = rng.choice([1.0, 0.0, -1.0], p=[0.5, 0.2, 0.3], size=120)
        w = win_rate([float(s) for s in scores], [0.0] * 120, seed=seed, n_resamples=500)
        assert w.ci95 is not None
        held += w.ci95[0] <= 0.6 <= w.ci95[1]
    assert 0.90 <= held / 200 <= 0.99


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(MAYBE, MAYBE), min_size=1, max_size=30))
def test_properties(pairs: list[tuple[float | None, float | None]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    w, turned = win_rate(a, b, n_resamples=50), win_rate(b, a, n_resamples=50)
    assert w.n + w.missing == len(pairs)
    same = win_rate(a, a, n_resamples=50)
    assert same.ties_half in (None, 0.5)
    if w.ties_half is None or turned.ties_half is None or turned.strict is None:
        return
    assert w.ties_half + turned.ties_half == pytest.approx(1)
    assert w.strict is not None
    assert w.ties_as_wins is not None
    assert w.strict <= w.ties_half <= w.ties_as_wins
    assert w.strict + turned.strict + w.ties / w.n == pytest.approx(1)
    assert w.missing_bounds is not None
    assert w.missing_bounds[0] <= w.ties_half + 1e-12
    assert w.ties_half <= w.missing_bounds[1] + 1e-12


def test_lists_of_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts against 1"):
        outcomes([1.0, 2.0], [1.0])
