"""Intervals and p-values against numbers worked out by hand and against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluation.sign_flips import paired_difference, sign_flip_p_value
from trimtab.evaluation.statistics import (
    bootstrap_interval,
    clusters_of,
    holm,
    mean_interval,
    variance_of_mean,
    wilson_interval,
)


def test_wilson_by_hand() -> None:
    """8 of 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half
    1.96 / 1.38415 · sqrt(0.016 + 0.009604) = 0.22658 → 0.4902 to 0.9433."""
    interval = wilson_interval(8, 10)
    assert interval.pair() == pytest.approx((0.4902, 0.9433), abs=2e-4)


def test_shares_at_the_edge() -> None:
    """0 of 10: Wilson's upper limit is z² / (n + z²) = 3.8415 / 13.8415."""
    assert wilson_interval(0, 10).pair() == (0.0, pytest.approx(0.27754, abs=1e-4))
    assert wilson_interval(10, 10).high == 1.0


def test_paired_difference_turns_round() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 80), rng.normal(0, 1, 80)
    ab, ba = paired_difference(a, b, seed=3), paired_difference(b, a, seed=3)
    assert ab.difference == pytest.approx(-ba.difference)
    assert ab.interval.low == pytest.approx(-ba.interval.high)
    assert ab.p_value == ba.p_value


def test_equal_differences_are_not_certain() -> None:
    """b = a over 50 prompts, both from 0 to 1, where no difference is beyond ±1: the share of other differences
    that 50 prompts hide with a chance of 2.5 % is 1 − 0.025^(1/50) = 1 − e^(−3.6889 / 50) = 0.07113. Without a
    range nothing bounds them."""
    a = np.linspace(0, 1, 50)
    assert paired_difference(a, a).interval.pair() == pytest.approx((-0.07113, 0.07113), abs=1e-5)
    assert mean_interval([2.0] * 50, reach=(1.0, np.inf)).pair() == pytest.approx((2 - 0.07113, 2.0), abs=1e-5)
    assert mean_interval([2.0] * 50).pair() == (2.0, 2.0)
    assert mean_interval([2.0] * 50, clusters=np.repeat([0], 50), reach=(1.0, 3.0)).pair() == pytest.approx(
        (2 - 0.975, 2 + 0.975)
    ), "one cluster tells of one"


def test_clusters_by_hand() -> None:
    """Clusters (1, 3), (5): mean 3, sums of deviations −2 and 2, variance (4 + 4) / 9 · 2 = 16/9. Resampled
    means are 2, 3 or 5; a bootstrap of rows would reach 1."""
    clusters = clusters_of(["b", "b", "a"])
    assert clusters.tolist() == [0, 0, 1]
    assert variance_of_mean(np.array([1.0, 3, 5]), clusters) == pytest.approx(16 / 9)
    assert variance_of_mean(np.array([1.0, 3, 5])) == pytest.approx(4 / 3), "s² / n = 4 / 3"
    assert bootstrap_interval([1.0, 3, 5], clusters=clusters, n_resamples=200).pair() == (2, 5)


def test_rows_of_one_prompt_are_one_unit() -> None:
    """40 prompts of 4 rows that share half of their variance: an interval over rows holds the mean 0 far too
    seldom."""
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(40), 4)
    held, naive = 0, 0
    for seed in range(300):
        x = rng.normal(size=40)[clusters] + rng.normal(size=160)
        interval = bootstrap_interval(x, clusters=clusters, seed=seed, n_resamples=400)
        held += interval.low <= 0 <= interval.high
        interval = bootstrap_interval(x, seed=seed, n_resamples=400)
        naive += interval.low <= 0 <= interval.high
    assert 0.92 <= held / 300 <= 0.98
    assert naive / 300 < 0.85


def test_coverage() -> None:
    """A 95 % interval holds the true mean in about 95 % of 300 samples (binomial sd 1.3 %)."""
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(300):
        x = rng.exponential(size=60)
        interval = bootstrap_interval(x, seed=seed, n_resamples=600)
        held += interval.low <= 1.0 <= interval.high
    assert 0.89 <= held / 300 <= 0.98


def test_p_values_are_uniform_when_nothing_differs() -> None:
    rng = np.random.default_rng(11)
    ps = [sign_flip_p_value(rng.normal(size=40), seed=s, n_resamples=400) for s in range(400)]
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.033)
    assert np.mean(np.array(ps) <= 0.5) == pytest.approx(0.5, abs=0.075)


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1 = 0.03, 0.04, 0.04."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="length"):
        paired_difference([1.0], [1.0, 2.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.integers(0, 99))
def test_interval_is_ordered_seeded_and_inside_the_data(values: list[float], seed: int) -> None:
    interval = bootstrap_interval(values, seed=seed, n_resamples=300)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == bootstrap_interval(values, seed=seed, n_resamples=300)
