"""Agreement beyond chance: Cohen's and Krippendorff's own examples, by hand, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluation.agreement import alpha, categories, coincidences, kappa, of_many, of_two

KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
"""Four observers and twelve units, 0 where nothing was said: Krippendorff 2011, example C."""


def counts_of(ratings: list[list[int]], values: int) -> np.ndarray:
    table = np.array(ratings)
    return np.stack([(table == value).sum(axis=0) for value in range(1, values + 1)], axis=1).astype(float)


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("interval", 0.849)])
def test_krippendorffs_own_example(level: str, published: float) -> None:
    pairs = coincidences(counts_of(KRIPPENDORFF, 5)).sum(axis=0)
    assert pairs.sum() == pytest.approx(40)  # his n..
    assert float(alpha(pairs, np.arange(1.0, 6.0), level)) == pytest.approx(published, abs=5e-4)  # type: ignore[arg-type]


def test_kappa_by_hand() -> None:
    """20 and 15 of 50 on the diagonal: observed 0.7; by the margins 0.5 · 0.6 + 0.5 · 0.4 = 0.5; so 0.4."""
    assert float(kappa(np.array([[20.0, 5.0], [10.0, 15.0]]))) == pytest.approx(0.4)


def test_a_judge_and_votes_by_hand() -> None:
    """Won, won, tied, lost, lost against won, tied, tied, lost, won: 3 of 5 the same. Kappa: chance is
    (2·2 + 1·2 + 2·1) / 25 = 0.32, so 0.28 / 0.68. Alpha: differences 0, ½, 0, 0, 1, squared and counted twice 2.5;
    of ten values 4 won, 3 tied, 3 lost: 2 · (4·3·¼ + 3·3·¼ + 4·3) = 34.5; 1 − 9 · 2.5 / 34.5."""
    found = of_two(np.array([1, 1, 0.5, 0, 0]), np.array([1, 0.5, 0.5, 0, 1]), np.arange(5))
    assert found.raw.value == pytest.approx(0.6)
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0.28 / 0.68)
    assert found.alpha is not None
    assert found.alpha.value == pytest.approx(1 - 9 * 2.5 / 34.5)


def test_preferences_are_won_tied_or_lost() -> None:
    assert categories(np.array([0.0, 0.49, 0.5, 1 / 3 + 1 / 6, 0.51, 1.0])).tolist() == [0, 0, 1, 1, 2, 2]


def test_people_with_each_other_by_hand() -> None:
    """Three units with two and more votes: won won lost, tied tied, lost won: pairs agree in 1/3, all, none."""
    counts = np.array([[1.0, 0, 2], [0, 2, 0], [1, 0, 1], [0, 0, 1]])
    found = of_many(counts, np.array([0, 1, 2, 3]))
    assert found is not None
    assert (found.raw.value, found.raw.n) == (pytest.approx(4 / 9), 3)
    assert found.kappa is None
    assert of_many(np.array([[1.0, 0, 0]]), np.array([0])) is None


def test_where_all_say_the_same() -> None:
    """Nothing to tell chance from: neither number exists, and the raw share still has a width."""
    found = of_two(np.ones(30), np.ones(30), np.arange(30))
    assert (found.kappa, found.alpha) == (None, None)
    assert found.raw.ci95 is not None
    assert found.raw.ci95[0] < 0.95


@pytest.mark.parametrize("alike", [True, False])
def test_where_all_units_agree_or_none_an_interval_says_what_could_hide(alike: bool) -> None:
    """30 prompts, half of them won and half lost, on which two raters always agree, or never. Every resample says
    the same or nearly. Chance is a half, so the share of agreement p is 2 p − 1 beyond chance; of 30 alike, up to
    1 − 0.025^(1/30) may be otherwise (Clopper and Pearson, one-sided 97.5 %)."""
    first = np.tile([1.0, 0.0], 15)
    counts = (
        np.stack([first == 0, np.zeros(30), first == 1], axis=1) * 2.0 if alike else np.tile([1.0, 0, 1], (30, 1))
    )
    two, many = of_two(first, first if alike else 1 - first, np.arange(30)), of_many(counts, np.arange(30))
    assert many is not None
    hidden = 1 - 0.025 ** (1 / 30)
    for one in (two.kappa, two.alpha, many.alpha):
        assert one is not None
        assert one.ci95 is not None
        inner = one.ci95[0] if alike else -one.ci95[1]
        assert 1 - 2 * hidden - 0.06 < inner < 1 - 2 * hidden + 0.01
        assert one.ci95[0] <= one.value <= one.ci95[1]


def test_an_interval_stays_within_what_can_be() -> None:
    """Where nearly all were won, one pair that disagrees is most of what chance would leave. 50 alike, 49 of them
    won, may hide 1 − 0.025^(1/50) = 7.1 % that disagree, each of either rater with a win: 0.5 of 1, then."""
    first = np.ones(50)
    first[0] = 0
    for clusters in (np.arange(50), np.arange(50) // 2, np.arange(50) // 10):
        found = of_two(first, first.copy(), clusters)
        for one in (found.kappa, found.alpha):
            assert one is not None
            assert one.ci95 is not None
            assert -1 <= one.ci95[0] < one.value == one.ci95[1] == 1
    kappa = of_two(first, first.copy(), np.arange(50)).kappa
    assert kappa is not None
    assert kappa.ci95 is not None
    share = 1 - 0.025 ** (1 / 50)
    table = np.array([[0.02 * (1 - share), share / 2], [share / 2, 0.98 * (1 - share)]])
    chance = float((table.sum(axis=0) * table.sum(axis=1)).sum())
    assert kappa.ci95[0] == pytest.approx((1 - share - chance) / (1 - chance), abs=0.01)


def test_units_that_agree_in_part_are_not_taken_for_ones_that_do() -> None:
    """Two of three raters alike on every unit: a third of the pairs agree, and resamples differ."""
    counts = np.tile([[2.0, 0, 1], [1, 0, 2]], (15, 1))
    found = of_many(counts, np.arange(30))
    assert found is not None
    assert found.alpha is not None
    assert found.alpha.ci95 is not None
    assert found.raw.value == pytest.approx(1 / 3)
    assert found.alpha.ci95[1] - found.alpha.ci95[0] < 0.2


def test_the_intervals_hold_the_truth() -> None:
    """200 times 100 votes of 50 prompts, right with a chance of 0.8 on even outcomes, so kappa and alpha are 0.6.
    Binomial standard error 1.5 points."""
    rng = np.random.default_rng(8)
    numbers = np.repeat(np.arange(50), 2)
    held = np.zeros(3)
    for repetition in range(200):
        judge = rng.integers(0, 2, 100).astype(float)
        votes = np.where(rng.random(100) < 0.8, judge, 1 - judge)
        found = of_two(judge, votes, numbers, seed=repetition, n_resamples=300)
        for i, (one, truth) in enumerate(((found.raw, 0.8), (found.kappa, 0.6), (found.alpha, 0.6))):
            assert one is not None
            assert one.ci95 is not None
            held[i] += one.ci95[0] <= truth <= one.ci95[1]
    assert (held / 200 > 0.9).all()
    assert (held / 200 < 0.99).all()


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2), min_size=2, max_size=30))
def test_turned_round_agreement_is_the_same(rows: list[tuple[float, float]]) -> None:
    """Who stands first, and which method is called the winner, changes neither number; none is above 1."""
    a, b = map(np.array, zip(*rows, strict=True))
    clusters = np.arange(a.size)
    one, swapped, mirrored = (of_two(x, y, clusters, n_resamples=2) for x, y in ((a, b), (b, a), (1 - a, 1 - b)))
    for name in ("raw", "kappa", "alpha"):
        values = [getattr(found, name) for found in (one, swapped, mirrored)]
        assert len({value is None for value in values}) == 1
        if values[0] is not None:
            assert {round(value.value, 9) for value in values} == {round(values[0].value, 9)}
            assert values[0].value <= 1 + 1e-12
