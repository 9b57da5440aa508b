"""A judge corrected by people: by hand, as ppi-python has it, by simulation, and where labels say nothing more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab.evaluation.prediction_powered import Corrected, corrected_rate, tuned_weight
from trimtab.evaluation.rates import rate_interval, score_interval
from trimtab.evaluation.statistics import Interval

NAN = math.nan


def test_by_hand() -> None:
    """12 labelled rows: the judge says 8 won, people 6, and they agree on 10. Of 12 more rows the judge wins 6.

    cov = 6/12 − 1/2 · 2/3 = 1/6; var of 14 won of 24 = 24/23 · (14/24 · 10/24); λ = (1/6) / (2 · 0.25362);
    rate = λ/2 + 1/2 − λ · 2/3 = 0.44524."""
    y = np.array([1.0] * 6 + [0.0] * 6)
    f = np.array([1.0] * 6 + [1.0] * 2 + [0.0] * 4)
    others = np.array([1.0] * 6 + [0.0] * 6)
    weight = tuned_weight(y, f, others)
    assert weight == pytest.approx((1 / 6) / (2 * 24 / 23 * 14 * 10 / 24**2), abs=1e-12)
    found = corrected_rate([*y, *[NAN] * 12], [*f, *others])
    assert found is not None
    assert found.value == pytest.approx(weight / 2 + 1 / 2 - weight * 2 / 3, abs=1e-12)
    assert (found.labelled, found.rows) == (12, 24)
    assert found.explained == pytest.approx(0.5, abs=1e-12)  # (1/6)² / (1/4 · 2/9)


def test_the_variance_by_hand() -> None:
    """A judge that says the same of all has λ = 0: six won of 12 labels, and of two pseudo-labels one.
    Variance: 14/4 / 14 / 10 = 0.025; at a rate of a half that is 10 labels, and t of 10 degrees makes them
    10 · (1.95996 / 2.22814)² = 7.738."""
    found = corrected_rate([1.0] * 6 + [0.0] * 6 + [NAN] * 30, [1.0] * 42)
    assert found is not None
    assert (found.value, found.weight, found.explained) == (0.5, 0.0, 0.0)
    expected = score_interval(0.5, 10 * (1.959964 / 2.228139) ** 2)
    assert found.interval.pair() == pytest.approx(expected.pair(), abs=1e-5)


def test_as_ppi_python_has_it() -> None:
    """ppi_mean_pointestimate of ppi-python 0.2.3 on these numbers; what λ its ppi_mean_ci takes follows."""
    rng = np.random.default_rng(11)
    people = rng.normal(size=200)
    f = (people + rng.normal(size=200) > -0.3).astype(float)
    y = np.where(np.arange(200) < 60, (people > 0).astype(float), NAN)
    found = corrected_rate(y, f)
    assert found is not None
    assert found.value == pytest.approx(PPI_POINT, abs=1e-8)
    assert found.weight == pytest.approx(PPI_WEIGHT, abs=1e-8)


PPI_POINT, PPI_WEIGHT = 0.50108153, 0.45424433


@pytest.mark.parametrize("clustered", [False, True])
def test_coverage(clustered: bool) -> None:
    """400 simulations of 60 labels among 300 rows, by a judge that is wrong on a quarter and kind to the method:
    binomial standard error 1.1 points. Narrower than labels alone, and the judge alone is nearly always wrong."""
    rng = np.random.default_rng(7)
    held = by_judge = 0
    width = labels_width = 0.0
    numbers = np.repeat(np.arange(100), 3) if clustered else np.arange(300)
    for _ in range(400):
        people = np.sqrt(0.5) * rng.normal(size=300)[numbers] + np.sqrt(0.5) * rng.normal(size=300)
        y, f = (people > -0.5).astype(float), (people + 0.4 * rng.normal(size=300) > -1.0).astype(float)
        truth = 0.691462  # P(normal > −0.5)
        labelled = np.zeros(300, dtype=bool)
        labelled[rng.choice(300, 60, replace=False)] = True
        clusters = numbers if clustered else None
        found = corrected_rate(np.where(labelled, y, NAN), f, clusters=clusters)
        assert found is not None
        held += found.interval.low <= truth <= found.interval.high
        width += found.interval.high - found.interval.low
        low, high = rate_interval(f, clusters=clusters).pair()
        by_judge += low <= truth <= high
        some = np.unique(numbers[labelled], return_inverse=True)[1] if clustered else None
        low, high = rate_interval(y[labelled], clusters=some).pair()
        labels_width += high - low
    assert 0.93 <= held / 400 <= 0.98
    assert by_judge / 400 < 0.1
    assert width < 0.95 * labels_width


def test_clusters_of_one_row_each_are_none() -> None:
    rng = np.random.default_rng(3)
    y, f = rng.integers(0, 2, 80).astype(float), rng.integers(0, 2, 80).astype(float)
    y[30:] = NAN
    assert corrected_rate(y, f) == corrected_rate(y, f, clusters=rng.permutation(80))


def test_copies_of_rows_add_nothing() -> None:
    """Every row four times, as clusters: the same rate, and no narrower an interval."""
    rng = np.random.default_rng(5)
    people = rng.normal(size=90)
    y, f = (people > 0).astype(float), (people + 0.5 * rng.normal(size=90) > 0).astype(float)
    y[30:] = NAN
    once, often = (
        corrected_rate(y, f),
        corrected_rate(np.repeat(y, 4), np.repeat(f, 4), clusters=np.repeat(np.arange(90), 4)),
    )
    assert once is not None
    assert often is not None
    assert often.value == pytest.approx(once.value, abs=0.01)  # var with one degree of freedom less, in λ
    ratio = (often.interval.high - often.interval.low) / (once.interval.high - once.interval.low)
    assert 0.95 < ratio < 1.1


def test_differences_are_rates_on_twice_the_range() -> None:
    """But for the pseudo-labels: of two outcomes' difference these vary half as much."""
    rng = np.random.default_rng(6)
    y, f = rng.integers(-1, 2, 120).astype(float), rng.integers(-1, 2, 120).astype(float)
    y[40:] = NAN
    wide, half = corrected_rate(y, f, bounds=(-1.0, 1.0)), corrected_rate((y + 1) / 2, (f + 1) / 2)
    assert wide is not None
    assert half is not None
    assert wide.value == pytest.approx(2 * half.value - 1)
    assert wide.weight == half.weight
    ratio = (wide.interval.high - wide.interval.low) / (half.interval.high - half.interval.low)
    assert 1.9 < ratio < 2.0


def test_a_judge_that_is_always_right_still_leaves_room() -> None:
    """No label of 40 contradicts it. Were it wrong on 4 % of rows, always the same way, that would happen one time
    in five: such rates are within the interval, though 4,000 rows alone are known to 1.6 points."""
    f = np.tile([1.0, 0.0], 2000)
    found = corrected_rate([*f[:40], *[NAN] * 3960], f)
    assert found is not None
    low, high = found.interval.pair()
    assert low < 0.46
    assert high > 0.54


def test_where_nothing_can_be_said() -> None:
    assert corrected_rate([1.0] * 9 + [NAN] * 9, [1.0] * 18) is None
    assert corrected_rate([1.0] * 18, [1.0] * 18, clusters=np.repeat(np.arange(9), 2)) is None
    with pytest.raises(ValueError, match="judge's outcome is needed"):
        corrected_rate([1.0] * 20, [NAN] * 20)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        corrected_rate([2.0] * 20, [1.0] * 20)


def test_labels_to_halve_by_hand() -> None:
    """Without a judge four times as many. One that tells half of the variance, 100 of 2,000: the variance goes as
    0.5/m + 0.5/2000; a quarter of that at 100 is 0.0013125, so m = 0.5 / (0.0013125 − 0.00025) = 470.6."""
    blind = Corrected(0.5, Interval(0.4, 0.6), 0.0, 100, 2000, 0.0)
    assert (blind.labels_to_halve(), blind.labels_for(0.1), blind.labels_for(0.02)) == (300, 100, None)
    half = Corrected(0.5, Interval(0.4, 0.6), 0.8, 100, 2000, 0.5)
    assert half.labels_to_halve() == 371
    assert Corrected(0.5, Interval(0.4, 0.6), 0.8, 100, 300, 0.5).labels_to_halve() is None


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=12, max_size=60
    )
)
def test_turned_round_it_is_one_less_that(rows: list[tuple[float, float]]) -> None:
    """Who is called the first method changes nothing; every interval holds its rate and stays within 0 and 1."""
    y, f = map(np.array, zip(*rows, strict=True))
    y = np.where(np.arange(y.size) < 11, y, NAN)
    one, other = corrected_rate(y, f), corrected_rate(1 - y, 1 - f)
    assert one is not None
    assert other is not None
    assert one.value == pytest.approx(1 - other.value, abs=1e-9)
    assume(abs(one.value - 0.5) > 1e-9)  # there rounding decides which end is corrected (rates.py)
    assert one.interval.pair() == pytest.approx((1 - other.interval.high, 1 - other.interval.low), abs=1e-9)
    assert 0 <= one.interval.low <= one.value <= one.interval.high <= 1
