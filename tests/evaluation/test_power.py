"""What a comparison can show: by hand, and by simulating comparisons with the gain that is promised."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.evaluation.estimate import Estimate, SeedSpread
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.power import (
    Spread,
    of_prompts,
    prompts_for,
    shortfall,
    smallest_gain,
    spread_of_difference,
)
from trimtab.evaluation.results import Comparison, Results
from trimtab.evaluation.sign_flips import paired_difference
from trimtab.evaluation.verdict import verdict
from trimtab.evaluation.win_rate import WinCounts
from trimtab.plan.power import power_lines

Z = 1.959964 + 0.841621


def test_by_hand() -> None:
    """sd 0.6, 400 prompts: (1.960 + 0.842) · 0.6 / 20 = 0.0840. Three pairs: z of 1 − 0.05 / 6 is 2.394. Two
    seeds of sd 0.05: (12.706 + 1.376)² · 0.05² / 2 more in the square."""
    assert smallest_gain(Spread(0.6), 400) == pytest.approx(Z * 0.03, abs=1e-6)
    assert smallest_gain(Spread(0.6), 400, pairs=3) == pytest.approx((2.39398 + 0.841621) * 0.03, abs=1e-5)
    both = ((Z * 0.03) ** 2 + (12.7062 + 1.37638) ** 2 * 0.05**2 / 2) ** 0.5
    assert smallest_gain(Spread(0.6, 0.05), 400, seeds=2) == pytest.approx(both, abs=1e-4)
    assert smallest_gain(Spread(0.6, 0.05), 400) == pytest.approx(Z * 0.03, abs=1e-6), "one seed: of that run"
    assert prompts_for(Spread(0.6), smallest_gain(Spread(0.6), 400) / 2) == 1600
    assert prompts_for(Spread(0.6, 0.05), 0.1, seeds=2) is None, "two seeds hide it, however many prompts there are"
    with pytest.raises(ValueError, match="one prompt"):
        smallest_gain(Spread(0.6), 0)


def test_the_smallest_gain_is_found_four_times_in_five() -> None:
    """300 comparisons of 100 prompts: binomial standard error 2.3 points."""
    rng = np.random.default_rng(4)
    gain = smallest_gain(Spread(0.7), 100)
    found = 0
    for seed in range(300):
        d = rng.normal(gain, 0.7, 100)
        one = paired_difference(d, np.zeros(100), seed=seed, n_resamples=400)
        found += one.interval.low > 0 and one.p_value < 0.05
    assert 0.73 <= found / 300 <= 0.87


def test_the_spread_of_what_was_compared() -> None:
    """± 0.0588 over 400 prompts: 0.03 · 20 = 0.6 a prompt. Seeds 0, 0.1: sd 0.0707."""
    plain = Estimate(value=0.01, ci95=(0.01 - 0.0588, 0.01 + 0.0588), n=400)
    assert spread_of_difference(plain) == Spread(pytest.approx(0.6, abs=1e-4))
    seeds = SeedSpread(values={0: 0.0, 1: 0.1}, within_ci95=(-0.0588, 0.0588))
    found = spread_of_difference(Estimate(value=0.05, ci95=(-0.5, 0.6), n=400, seeds=seeds))
    assert found == Spread(pytest.approx(0.6, abs=1e-4), pytest.approx(0.0707, abs=1e-4))
    assert spread_of_difference(Estimate(value=0.05)) is None


def test_the_verdict_says_what_it_would_have_missed() -> None:
    """sd 0.6 over 400 prompts: 8.4 points, and 1,200 prompts more for half of that."""
    methods = {"base": MethodResult(), "dpo": MethodResult()}
    numbers = {"difference": 0.01, "ci95": (0.01 - 0.0588, 0.01 + 0.0588), "p_value": 0.7, "p_holm": 0.7, "n": 400}
    c = Comparison(a="dpo", b="base", metric="win_rate", **numbers)
    [line] = verdict(Results(name="t", methods=methods, comparisons=[c]))
    assert line.endswith(
        "; differences below 8.4 would have gone unseen, and to see one of 4.2 takes about 1,200 more prompts."
    )
    c.seeds = SeedSpread(values={0: -0.1, 1: 0.12}, between_ci95=(-1, 1), within_ci95=(-0.05, 0.07))
    [line] = verdict(Results(name="t", methods=methods, comparisons=[c]))
    assert "to see half of that takes more seeds, not prompts alone" in line


def test_a_win_rate_near_a_half_says_what_it_would_have_missed() -> None:
    """± 0.049 of 400: sd 0.5, so 7.0 points; 3.5 take 1,600 prompts. Two seeds judge 400 prompts 800 times."""
    rate = Estimate(value=0.52, ci95=(0.52 - 0.049, 0.52 + 0.049), n=400)
    counts = WinCounts(n=400, ties=0, missing=0, p_value=0.4)
    dpo = MethodResult(estimates={"win_rate": rate}, win_counts=counts)
    [line] = verdict(Results(name="t", opponent="base", methods={"dpo": dpo}))
    assert line.endswith(
        "; a true rate within 7.0 points of 50 % would have gone unseen, and to see one 3.5 points off takes about "
        "1,200 more prompts."
    )
    seeds = SeedSpread(values={0: 0.5, 1: 0.54}, between_ci95=(0.3, 0.7), within_ci95=rate.ci95)
    two = rate.model_copy(update={"seeds": seeds, "n": 800})
    of_two = of_prompts(two, WinCounts(n=800, ties=0, missing=0))
    assert of_two.n == 400
    found = shortfall(of_two)
    assert found is not None
    assert found.gain == pytest.approx(smallest_gain(Spread(0.5, 0.0283), 400, seeds=2), rel=1e-3)


def test_a_plan_says_it_before() -> None:
    """√½ a prompt: 2.802 · 0.7071 / 20 = 9.9 points for one pair of 400 prompts."""
    first, needed, last = power_lines(400, 2)
    assert first.startswith("400 test prompts show a gain of 9.9 points of win rate, or more, four times in five")
    assert (
        needed == "To see a gain of so many points takes so many prompts: 393 for 10, 1,570 for 5 and 9,812 for 2."
    )
    assert "training seeds move" in last
    assert "show a gain of 7.0 points" in power_lines(400, 2, against_opponent=True)[0]
    assert power_lines(400, 1) == []
    seeds = SeedSpread(values={0: 0.0, 1: 0.1}, within_ci95=(-0.0588, 0.0588))
    c = Comparison(
        a="dpo", b="base", metric="win_rate", difference=0.05, ci95=(-0.5, 0.6), p_value=0.5, n=400, seeds=seeds
    )
    pilot = Results(name="pilot", comparisons=[c])
    first, _, last = power_lines(400, 2, pilot=pilot)
    assert "a gain of 8.4 points" in first
    assert "moved a difference by 7.1 points" in last
    assert "With 2 seeds no number of prompts shows 10, 5 and 2 points" in power_lines(400, 2, 2, pilot)[1]


def test_a_pilot_of_one_method_says_it_by_its_win_rate() -> None:
    """± 0.0294 of 400 prompts: sd 0.3, so 4.2 points from a half; 800 judgements by two seeds are 400 prompts."""
    rate = Estimate(value=0.9, ci95=(0.9 - 0.0294, 0.9 + 0.0294), n=800, seeds=None)
    seeds = SeedSpread(values={0: 0.9, 1: 0.9}, within_ci95=rate.ci95)
    for n, spread in ((400, None), (800, seeds)):
        counts = WinCounts(n=n, ties=0, missing=0)
        judged = MethodResult(estimates={"win_rate": rate.model_copy(update={"seeds": spread})}, win_counts=counts)
        pilot = Results(name="pilot", opponent="a", methods={"b": judged})
        assert "show a gain of 4.2 points" in power_lines(400, 2, pilot=pilot)[0]
