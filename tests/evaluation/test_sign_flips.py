"""Sign-flip p-values: by hand, and how often they reject a true null, by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from trimtab.evaluation.sign_flips import sign_flip_p_value


def test_by_hand() -> None:
    """Five differences of +1: of 32 patterns 2 are as extreme, none more: mid-p 1/32. Never 0; 1 where nothing
    differs."""
    assert sign_flip_p_value([1.0] * 5) == 1 / 32
    assert 0 < sign_flip_p_value([1.0] * 200) == pytest.approx(2.0**-200)
    assert sign_flip_p_value([1.0] * 5000) > 0
    assert sign_flip_p_value([0.0] * 9) == 1.0
    assert sign_flip_p_value([1.0, -1.0, 0.0]) == 1.0
    assert sign_flip_p_value([1.0] * 5 + [0.0] * 40) == 1 / 32, "prompts that do not differ tell nothing"


def test_ties_that_rounding_would_break() -> None:
    """−0.3 + 0.1 + 0.1 + 0.2 = 0.1. Of 16 patterns 6 sum to 0.1 in size and 10 to more: (10 + 3) / 16."""
    assert sign_flip_p_value([-0.3, 0.1, 0.1, 0.2]) == 13 / 16


@pytest.mark.parametrize("count", [6, 9])
def test_the_three_ways_agree(count: int) -> None:
    """Multiples of a step, few differences, and drawn ones, against every pattern written out."""
    rng = np.random.default_rng(count)
    steps, free = rng.integers(1, 5, count) / 2.0, rng.normal(0.4, 1, count)
    for d in (steps * rng.choice([-1, 1, 1], count), free):
        sums = np.array([abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=count)])
        tied = np.isclose(sums, abs(d.sum()))
        expected = ((sums > abs(d.sum())) & ~tied).mean() + tied.mean() / 2
        expected = 1.0 if abs(d.sum()) < 1e-9 else expected
        assert sign_flip_p_value(d) == pytest.approx(expected)
    many = np.concatenate([free, free + 1e-3, free - 1e-3])  # too many to write out
    drawn = sign_flip_p_value(many, n_resamples=20_000)
    normal = 2 * scipy.stats.norm.sf(abs(many.sum()) / np.sqrt((many**2).sum()))
    assert drawn == pytest.approx(normal, abs=0.02)


def test_clusters_flip_together() -> None:
    """Five prompts of two rows that agree are five differences of 2, not ten of 1."""
    assert sign_flip_p_value([1.0] * 10, clusters=np.repeat(np.arange(5), 2)) == 1 / 32
    assert sign_flip_p_value([1.0, -1.0] * 5, clusters=np.repeat(np.arange(5), 2)) == 1.0


def test_mid_p_rejects_as_often_as_it_says() -> None:
    """Where each of n prompts differs with chance q, either way: the chance of p ≤ 5 % over all outcomes is 4
    to 6 %. For a fixed number k of prompts that differ, at most 7.7 % (k = 16, at 4 of them or fewer)."""
    rejects = np.array([0.0] + [
        sum(
            scipy.stats.binom.pmf(up, k, 0.5)
            for up in range(k + 1)
            if sign_flip_p_value([1.0] * up + [-1.0] * (k - up)) <= 0.05
        )
        for k in range(1, 81)
    ])  # fmt: skip
    assert rejects.max() == rejects[16] == pytest.approx(2 * scipy.stats.binom.cdf(4, 16, 0.5))
    for n, q in ((200, 0.05), (200, 0.15), (100, 0.4), (80, 0.7)):
        weights = scipy.stats.binom.pmf(np.arange(81), n, q)
        assert 0.04 <= float(weights @ rejects) <= 0.06, (n, q)
