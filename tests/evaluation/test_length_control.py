"""The length-controlled win rate: identities, simulated truth, statsmodels, and AlpacaEval's own numbers."""

from __future__ import annotations

import csv
import gzip
import time
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from trimtab.evaluation.length_control import fit
from trimtab.evaluation.length_control import length_controlled_win_rate as lc


def simulated(n: int, theta: float, phi: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mine, theirs = rng.gamma(4, 300, n), rng.gamma(4, 200, n)
    delta = mine - theirs
    p = expit(theta + phi * np.tanh(delta / delta.std(ddof=1)))
    return (rng.random(n) < p).astype(float), mine, theirs


def test_itself_is_half() -> None:
    found = lc([0.5] * 60, [100] * 60, [100] * 60, n_resamples=50)
    assert found is not None
    assert found.value == 0.5
    assert found.ci95 == (0.5, 0.5)
    assert found.warnings == []


@pytest.mark.parametrize("difficult", [False, True])
def test_turning_round_adds_to_one(difficult: bool) -> None:
    y, mine, theirs = simulated(150, 0.4, 1.0, 1)
    gamma = np.random.default_rng(2).normal(size=150) if difficult else None
    a = lc(y, mine, theirs, difficulty=gamma, n_resamples=20)
    b = lc(1 - y, theirs, mine, difficulty=None if gamma is None else -gamma, n_resamples=20)
    assert a is not None
    assert b is not None
    assert a.value + b.value == pytest.approx(1, abs=1e-9)
    assert a.length_effect == pytest.approx(b.length_effect)


def test_constant_difference_drops_the_length_term() -> None:
    """45 of 60 won and nothing to tell length from the method: the raw win rate, and a warning."""
    y = [1.0] * 45 + [0.0] * 15
    found = lc(y, [150] * 60, [100] * 60, n_resamples=20, ridge=1e-6)
    assert found is not None
    assert found.value == pytest.approx(0.75, abs=1e-6)
    assert found.length_effect is None
    assert "same" in found.warnings[0]


def test_recovers_theta_that_length_hides() -> None:
    """θ = -0.4 (LC 40.1 %) under a strong taste for length: the raw win rate is above one half."""
    y, mine, theirs = simulated(6000, -0.4, 2.0, 5)
    found = lc(y, mine, theirs, n_resamples=20)
    assert found is not None
    assert y.mean() > 0.5
    assert found.value == pytest.approx(expit(-0.4), abs=0.02)
    assert found.length_effect == pytest.approx(2.0, abs=0.15)


def test_coverage() -> None:
    held = 0
    for seed in range(100):
        y, mine, theirs = simulated(200, 0.3, 1.0, seed)
        found = lc(y, mine, theirs, n_resamples=200, seed=seed)
        assert found is not None
        assert found.ci95 is not None
        held += found.ci95[0] <= expit(0.3) <= found.ci95[1]
    assert held >= 88


def test_perfect_separation_stays_finite() -> None:
    found = lc([1.0] * 200, list(range(200)), [0] * 200, n_resamples=50)
    assert found is not None
    assert 0.95 < found.value < 0.999  # without the prior: 1 - 4e-14, and φ grows without end
    assert found.ci95 is not None
    assert all(np.isfinite(found.ci95))


def test_same_as_statsmodels() -> None:
    """GLM, binomial, fractional y, no prior."""
    y, mine, theirs = simulated(300, 0.5, 1.0, 9)
    y[:40] = 0.5
    y[40:60] = 0.3
    delta = mine - theirs
    x = np.column_stack([np.ones(300), np.tanh(delta / delta.std(ddof=1))])
    expected = sm.GLM(y, x, family=sm.families.Binomial()).fit(tol=1e-12).params
    assert fit(x[None], y, np.ones((1, 300)), ridge=0.0)[0] == pytest.approx(expected, abs=1e-6)


def test_few_prompts_warn_and_missing_are_left_out() -> None:
    found = lc([1.0, 0.0, float("nan")] * 15, range(45), [10] * 45, n_resamples=20)
    assert found is not None
    assert found.n == 30
    assert "30 prompts" in found.warnings[0]
    assert lc([float("nan")], [1], [2]) is None
    with pytest.raises(ValueError, match="outside"):
        lc([2.0], [1], [2])


def test_five_hundred_prompts_take_at_most_two_seconds() -> None:
    y, mine, theirs = simulated(500, 0.1, 1.0, 4)
    start = time.perf_counter()
    lc(y, mine, theirs)
    assert time.perf_counter() - start < 2


def test_published_numbers(shared: Path) -> None:
    """Eight AlpacaEval 2 models: mean absolute error at most 1.5 points with the difficulty of prompts."""
    folder = shared / "data/length_control"
    with (folder / "instruction_difficulty_estimated.csv").open() as f:
        difficulty = {int(r[""]): float(r["gamma_est"]) for r in csv.DictReader(f)}
    with (folder / "published.csv").open() as f:
        published = {r["model"]: float(r["length_controlled_winrate"]) for r in csv.DictReader(f)}
    with gzip.open(folder / "annotations.csv.gz", "rt") as f:
        rows = list(csv.DictReader(f))
    errors = []
    for model, expected in published.items():
        mine = [r for r in rows if r["model"] == model]
        found = lc(
            [float(r["preference"]) - 1 for r in mine],
            [int(r["chars_model"]) for r in mine],
            [int(r["chars_baseline"]) for r in mine],
            difficulty=[difficulty[int(r["index"])] for r in mine],
            n_resamples=2,
        )
        assert found is not None
        errors.append(abs(100 * found.value - expected))
    assert len(errors) == 8
    assert np.mean(errors) <= 1.5
