"""Intervals of rates: by hand, and their coverage by enumerating every set of outcomes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from trimtab.evaluation.rates import effective_n, rate_interval, score_interval
from trimtab.evaluation.statistics import wilson_interval


def outcomes(won: int, tied: int, lost: int) -> np.ndarray:
    return np.array([1.0] * won + [0.5] * tied + [0.0] * lost)


def test_of_won_and_lost_it_is_wilsons() -> None:
    """30 of 50: the two end corrections are those of rarer outcomes."""
    assert rate_interval(outcomes(30, 0, 20)).pair() == pytest.approx(wilson_interval(30, 50).pair())
    assert rate_interval(outcomes(0, 0, 50)).pair() == pytest.approx((0.0, 0.07135), abs=1e-5)


def test_one_win_of_fifty_by_hand() -> None:
    """Below it ends at Clopper and Pearson's one-sided 4 % limit: 1 − (1 − p)^50 = 0.04, p = 0.000816; Wilson's is
    0.0035, and a rate of 0.18 / n is then missed in 16 %."""
    found = rate_interval(outcomes(1, 0, 49))
    assert found.low == pytest.approx(1 - 0.96 ** (1 / 50), abs=1e-7)
    assert found.high == pytest.approx(wilson_interval(1, 50).high)


def test_ties_by_hand() -> None:
    """50 ties, and z² = 3.8415 more rows of won and lost: variance 3.8415 / 4 / 53.8415 = 0.01784, a share of
    0.07135 of ¼, n* = 50 / 0.07135 = 700.8; half ½ · 1.96 / √(700.8 + 3.84) = 0.0369."""
    assert effective_n(outcomes(0, 50, 0)) == pytest.approx(700.8, abs=0.1)
    assert rate_interval(outcomes(0, 50, 0)).pair() == pytest.approx((0.5 - 0.0369, 0.5 + 0.0369), abs=1e-4)
    # As differences of two rates the same outcomes are twice as wide: none of 50 prompts differs.
    low, high = rate_interval(np.zeros(50), bounds=(-1, 1)).pair()
    assert (low, high) == pytest.approx((-0.0738, 0.0738), abs=2e-4)


def test_clusters_take_n_down() -> None:
    """Four equal rows a prompt are one: the design effect is 4 whether rows differ or not."""
    rows = np.repeat(outcomes(0, 0, 30), 4)
    clusters = np.repeat(np.arange(30), 4)
    t = scipy.stats.t.ppf(0.975, 29) / scipy.stats.norm.ppf(0.975)
    assert effective_n(rows, clusters) == pytest.approx(30 / t**2)
    rows = np.repeat(outcomes(12, 0, 18), 4)
    deff = 4 * (120 - 1) / 120 * 30 / 29  # with each variance's own degrees of freedom
    squares, z2 = 120 * 0.24, scipy.stats.norm.ppf(0.975) ** 2
    expected = 120 / ((squares * deff + z2 * 4) / (squares + z2)) / t**2
    assert effective_n(rows, clusters) == pytest.approx(expected)


@pytest.mark.parametrize("n", [50, 100, 200])
def test_coverage_by_enumeration(n: int) -> None:
    """Of every rate from 0.2 to 50 %, in steps of 0.2 points: at least 93 %, where Wilson's own falls below."""
    won = np.arange(n + 1)
    ends = np.array([score_interval(w / n, n).pair() for w in won])
    plain = np.array([wilson_interval(w, n).pair() for w in range(n + 1)])
    rates = np.arange(0.002, 0.5, 0.002)
    chances = scipy.stats.binom.pmf(won[:, None], n, rates)

    def lowest(intervals: np.ndarray) -> float:
        held = (intervals[:, :1] <= rates) & (rates <= intervals[:, 1:])
        return float((chances * held).sum(axis=0).min())

    assert lowest(ends) >= 0.93
    assert lowest(plain) < 0.93 or n == 200, "between these rates its dips are narrower than the steps"


def test_more_wins_never_lower_a_bound() -> None:
    """Of all 496 sets of 30 outcomes: neither a tie for a loss, nor a win for a tie or a loss, lowers an end."""
    n = 30
    ends = {(w, t): rate_interval(outcomes(w, t, n - w - t)).pair() for w in range(n + 1) for t in range(n + 1 - w)}
    for (w, t), (low, high) in ends.items():
        for better in ((w, t + 1), (w + 1, t - 1), (w + 1, t)):
            if better in ends:
                assert ends[better][0] >= low - 1e-12, (w, t, better)
                assert ends[better][1] >= high - 1e-12, (w, t, better)


def test_ties_by_enumeration() -> None:
    """All outcomes of 40 prompts of which 20 or 50 % are tied: 94 to 98 %."""
    n = 40
    sets = [(w, t, n - w - t) for w in range(n + 1) for t in range(n + 1 - w)]
    ends = np.array([rate_interval(outcomes(*one)).pair() for one in sets])
    for tied in (0.2, 0.5):
        for won in np.linspace(0.05, 0.95 - tied, 7):
            chances = scipy.stats.multinomial.pmf(sets, n, [won, tied, 1 - won - tied])
            rate = won + tied / 2
            held = chances[(ends[:, 0] <= rate) & (rate <= ends[:, 1])].sum()
            assert 0.94 <= held <= 0.98, (tied, won)
