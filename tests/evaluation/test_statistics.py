"""Intervals and p-values against numbers worked out by hand and against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluation.statistics import (
    bootstrap_interval,
    holm,
    paired_difference,
    sign_flip_p_value,
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


def test_sign_flips_by_hand() -> None:
    """Five differences of +1: 2 of the 32 sign patterns are as extreme, so p → 1/16; never 0."""
    assert sign_flip_p_value([1.0] * 5, n_resamples=20_000) == pytest.approx(1 / 16, abs=0.006)
    assert sign_flip_p_value([1.0] * 200, n_resamples=99) == 1 / 100
    assert sign_flip_p_value([0.0] * 9) == 1.0


def test_sign_flips_keep_ties_that_rounding_would_break() -> None:
    """-0.3 + 0.1 + 0.1 + 0.2 = 0.1, and every sign pattern sums to at least 0.1 in size: p = 1. In floating
    point a quarter of the patterns fall a rounding error short."""
    assert sign_flip_p_value([-0.3, 0.1, 0.1, 0.2]) == 1.0


def test_paired_difference_turns_round() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 80), rng.normal(0, 1, 80)
    ab, ba = paired_difference(a, b, seed=3), paired_difference(b, a, seed=3)
    assert ab.difference == pytest.approx(-ba.difference)
    assert ab.interval.low == pytest.approx(-ba.interval.high)
    assert ab.p_value == ba.p_value


def test_paired_is_sharper_than_the_parts() -> None:
    """Difficulty shared by both methods cancels: b = a - 0.1 exactly has an interval of no width."""
    a = np.random.default_rng(1).normal(size=50)
    d = paired_difference(a, a - 0.1)
    assert d.interval.pair() == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_coverage(method: str) -> None:
    """A 95 % interval holds the true mean in about 95 % of 300 samples (binomial sd 1.3 %)."""
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(300):
        x = rng.exponential(size=60)
        interval = bootstrap_interval(x, method=method, seed=seed, n_resamples=600)  # type: ignore[arg-type]
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
