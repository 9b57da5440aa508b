"""The length-controlled win rate: identities, simulated truth, statsmodels, and AlpacaEval's own numbers."""

from __future__ import annotations

import csv
import gzip
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from evaluation.outputs_of import in_own_words, make, study
from trimtab.evaluation.length_control import fit, overlap_of
from trimtab.evaluation.length_control import length_controlled_win_rate as lc
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.prompt_difficulty import Comparison, difficulties


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
    assert found.warnings == []


@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
def test_where_nothing_varies_the_interval_is_that_of_the_plain_rate(outcome: float) -> None:
    """Every resample is alike. Of 50 prompts without a loss up to 7.1 % may be lost (Clopper and Pearson, one-sided
    97.5 %: 1 − 0.025^(1 / 50)), and ties may hide as many either way, each worth half: 3.6 points."""
    found = lc([outcome] * 50, [100] * 50, [100] * 50, n_resamples=50)
    assert found is not None
    assert found.estimate.basis is not None
    assert found.estimate.basis.method == "wilson_effective_n"
    unseen = 1 - 0.025 ** (1 / 50)
    low, high = found.ci95
    if outcome == 0.5:
        assert (low, high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2), abs=0.004)
    else:
        assert (low if outcome else 1 - high) == pytest.approx(1 - unseen, abs=0.005)
        assert (high if outcome else 1 - low) == 1.0


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
    assert (found.overlap, found.withheld) == (0, True), "all of its answers are longer"


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


def test_lengths_that_hardly_overlap_are_withheld() -> None:
    """Longer on 1, 3 and 5 of 20 prompts, shorter on the others: 5, 15 and 25 %."""
    y = [1.0, 0.0] * 10
    found = [lc(y, [3.0] * k + [1.0] * (20 - k), [2.0] * 20, n_resamples=10) for k in (1, 3, 5)]
    assert [one and (one.withheld, one.extrapolated) for one in found] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert found[0] is not None
    assert "longer than the opponent's on 5.0 % of prompts and shorter on 95.0 %" in found[0].warnings[-1]
    assert overlap_of(np.zeros(4)) == 1, "equal lengths are what is asked for"


def test_a_study_takes_difficulty_from_the_other_methods() -> None:
    """Four methods: each is told by three others, not by itself. All answers are as long as the opponent's. One
    that says nothing of its own, but repeats sft, is not another method: two others are left for each."""
    easy, them = [2.0, 2.0, 0.0, 0.0] * 5, in_own_words(make("them", [1.0] * 20))
    scores = {"base": easy, "sft": easy, "sft_length": easy, "dpo": [2.0, 0.0, 2.0, 0.0] * 5}
    methods = [in_own_words(make(name, of)) for name, of in scores.items()]
    found = study(methods, them, n_resamples=50)
    effect = found.methods["sft"].length_effect
    assert effect is not None
    assert (effect.difficulty, effect.overlap, effect.extrapolated) == ("others", 1.0, False)
    estimate = found.methods["sft"].estimates["length_controlled_win_rate"]
    assert estimate.basis is not None
    assert (estimate.basis.method, estimate.basis.units) == ("refitted_bootstrap", 20)

    def told(methods: list[MethodOutputs]) -> set[str]:
        return {
            m.length_effect.difficulty
            for m in study(methods, them, n_resamples=50).methods.values()
            if m.length_effect
        }

    assert told(methods[:3]) == {"none"}
    assert told([*methods[:3], replace(methods[1], name="dpo")]) == {"none"}


def test_what_is_withheld_is_said_and_not_shown() -> None:
    method = make("dpo", [2.0, 0.0] * 30)
    for generation in method.generations[:58]:
        generation.completion = "much longer than that"
    for generation in method.generations[58:]:
        generation.completion = "a"
    found = study([method], make("them", [1.0] * 60), n_resamples=50)
    assert "length_controlled_win_rate" not in found.methods["dpo"].estimates
    assert any("no win rate at equal length" in line for line in found.warnings)
    assert found.model_validate_json(found.to_json()) == found


def test_published_numbers(shared: Path) -> None:
    """Eight AlpacaEval 2 models: mean absolute error at most 1.5 points with the difficulty of prompts. With
    what the other seven tell instead, it is at most half a point where a number is shown, and every interval holds
    the published value."""
    folder = shared / "data/length_control"
    with (folder / "instruction_difficulty_estimated.csv").open() as f:
        difficulty = {int(r[""]): float(r["gamma_est"]) for r in csv.DictReader(f)}
    with (folder / "published.csv").open() as f:
        published = {r["model"]: float(r["length_controlled_winrate"]) for r in csv.DictReader(f)}
    with gzip.open(folder / "annotations.csv.gz", "rt") as f:
        rows = list(csv.DictReader(f))
    by_model = {model: {int(r["index"]): r for r in rows if r["model"] == model} for model in published}

    def outcomes(model: str) -> np.ndarray:
        return np.array([
            float(by_model[model][i]["preference"]) - 1 if i in by_model[model] else np.nan for i in difficulty
        ])  # fmt: skip

    def lengths(model: str, side: str) -> np.ndarray:
        of = by_model[model]
        return np.array([float(of[i][f"chars_{side}"]) if i in of else 0.0 for i in difficulty])

    told = difficulties({
        model: [Comparison(outcomes(model), lengths(model, "model") - lengths(model, "baseline"))]
        for model in published
    })  # fmt: skip
    with_file, with_others, held = [], [], 0
    for model, expected in published.items():
        given = outcomes(model), lengths(model, "model"), lengths(model, "baseline")
        by_file = lc(*given, difficulty=list(difficulty.values()), n_resamples=2)
        (gamma,) = told[model] or [None]
        by_others = lc(*given, difficulty=gamma, n_resamples=200)
        assert by_file is not None
        assert by_others is not None
        with_file.append(abs(100 * by_file.value - expected))
        held += by_others.ci95[0] <= expected / 100 <= by_others.ci95[1]
        if not by_others.withheld:
            with_others.append(abs(100 * by_others.value - expected))
    assert np.mean(with_file) <= 1.5
    assert held == 8
    assert len(with_others) == 2
    assert np.mean(with_others) <= 0.5
