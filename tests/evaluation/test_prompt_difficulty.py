"""How hard prompts are, as other methods tell it: by hand, against the truth, and where it must say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit
from scipy.stats import norm

from trimtab.evaluation.length_control import length_controlled_win_rate, length_term
from trimtab.evaluation.prompt_difficulty import Comparison, difficulties
from trimtab.evaluation.statistics import Floats

nan = float("nan")


def of(outcomes: Sequence[float] | Floats, delta: Floats | None = None, texts: Sequence[str] = ()) -> Comparison:
    y = np.asarray(outcomes, dtype=np.float64)
    return Comparison(y, np.zeros(y.size) if delta is None else delta, texts)


def told(rated: Comparison, others: Sequence[Comparison]) -> Floats | None:
    by_seed = difficulties({**{str(i): [other] for i, other in enumerate(others)}, "rated": [rated]})["rated"]
    return None if by_seed is None else by_seed[0]


def test_by_hand() -> None:
    """Three others at equal lengths, of which each wins three of four prompts, and two lose the last: less their
    mean of ¾ they are ¼, ¼, ¼, −¾ twice, and −¾, ¼, ¼, ¼. Means −1/12, ¼, ¼, −5/12, whose mean is 0 and mean square
    1/144 · (1 + 9 + 9 + 25) / 4 = 11/144. Two agree (3/16), two pairs do not (−1/16): what they share is 1/48, what
    each has of its own 3/16 − 1/48 = 1/6. 1/48 is 27 % of the mean's variance 1/48 + 1/18, and 2.4 standard
    errors of 3/16 over √480 pairs of outcomes on 160 prompts: it is told. On 40 prompts it is 1.2, and is not."""
    others = [np.array(y) for y in ([1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1])]
    expected = np.array([-1, 3, 3, -5]) / np.sqrt(11)

    def repeated(times: int) -> Floats | None:
        return told(of(np.tile([1.0, 0], 2 * times)), [of(np.tile(y, times)) for y in others])

    assert repeated(40) == pytest.approx(np.tile(expected, 40))
    assert repeated(10) is None
    assert told(of(np.tile([1.0, 0], 80)), [of(np.tile(y, 40)) for y in others[:2]]) is None


def test_nothing_is_told_where_others_do_not_agree() -> None:
    """Others that win everything tell nothing either: without length, all that is left are their lengths."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=300)
    won = [of(np.ones(300), shared + rng.normal(size=300)) for _ in range(3)]
    assert told(of(np.tile([1.0, 0], 150), shared), won) is None
    for _ in range(10):
        luck = [of((rng.random(2000) < 0.5).astype(float)) for _ in range(3)]
        assert told(of(np.tile([1.0, 0.0], 1000)), luck) is None


def test_it_is_what_is_expected_of_the_truth() -> None:
    """Soft outcomes of a known difficulty with errors, of which a third is missing; the method's own length goes
    with the difficulty. Least squares that are given the truth are the best linear guess of it from the others'
    mean and the length, for each count of known others: found is that, up to the noise of 40,000 prompts."""
    rng, n = np.random.default_rng(1), 40_000
    truth, delta = rng.normal(size=n), rng.normal(size=n)
    delta += 0.7 * truth
    others = [0.05 * truth + 0.1 * rng.normal(size=n) for _ in range(3)]
    outcomes = [np.where(rng.random(n) < 0.33, nan, np.clip(0.5 + other, 0, 1)) for other in others]
    found = told(of(rng.random(n), delta), [of(y) for y in outcomes])
    assert found is not None
    known = ~np.isnan(np.stack(outcomes))
    counts = known.sum(axis=0)
    means = np.where(known, np.nan_to_num(outcomes), 0).sum(axis=0) / np.maximum(counts, 1)
    length = length_term(delta, np.ones((1, n)))[0]
    best = np.zeros(n)
    for count in range(4):
        rows = counts == count
        columns = [np.ones(n), length, *([means] if count else [])]
        x = np.stack(columns, axis=1)[rows]
        best[rows] = x @ np.linalg.lstsq(x, truth[rows], rcond=None)[0]
    best = (best - best.mean()) / best.std()
    assert np.sqrt(np.mean((found - best) ** 2)) < 0.03


def test_lengths_of_others_are_taken_out_as_by_statsmodels() -> None:
    """y − p(Δ) + p(0) of a logistic regression on length and difficulty; a ridge of 0.1 moves it by little."""
    rng, n = np.random.default_rng(2), 4000
    delta, hardness = rng.normal(size=n), rng.normal(size=n)
    y = (rng.random(n) < expit(0.3 + np.tanh(delta) + 0.8 * hardness)).astype(float)
    y[:50] = nan
    seen = ~np.isnan(y)
    found = of(y, delta).without_length(hardness)
    length = np.tanh(delta / delta[seen].std(ddof=1))
    x = np.stack([np.ones(n), length, hardness], axis=1)
    beta = sm.GLM(y[seen], x[seen], family=sm.families.Binomial()).fit(tol=1e-12).params
    expected = y - expit(x @ beta) + expit(x @ (beta * [1, 0, 1]))
    assert np.isnan(found[:50]).all()
    assert found[seen] == pytest.approx(expected[seen], abs=2e-4)


def test_the_very_same_answer_is_not_anothers() -> None:
    """One other gives the method's own answer to half of the prompts: what it won there tells nothing. Where it
    gives none but the same, only two others are left, and they are too few."""
    rng, n = np.random.default_rng(3), 60
    hardness = rng.normal(size=n)

    def drawn() -> Floats:
        return (rng.random(n) < expit(2 * hardness)).astype(float)

    mine = of(drawn(), texts=[f"mine {i}" for i in range(n)])
    others = [of(drawn(), texts=[f"{k} {i}" for i in range(n)]) for k in range(4)]
    copied = [mine.texts[i] if i < 30 else others[3].texts[i] for i in range(n)]
    same = replace(others[3], texts=copied)
    turned = replace(same, outcomes=np.where(np.arange(n) < 30, 1 - same.outcomes, same.outcomes))
    missing = replace(same, outcomes=np.where(np.arange(n) < 30, nan, same.outcomes))
    found = [told(mine, [*others[:3], other]) for other in (same, turned, missing)]
    assert all(one is not None for one in found)
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
    assert told(mine, [*others[:2], replace(others[3], texts=mine.texts)]) is None
    assert told(mine, [*others[:2], replace(others[3], texts=others[0].texts)]) is None, "one of them twice"


def test_another_counts_for_the_prompts_that_are_its_own() -> None:
    """One of four others gave the rated answer to all prompts but two, on which it disagrees with the rest as much
    as can be. It takes next to nothing from what they tell."""
    rng, n = np.random.default_rng(6), 200
    hardness = rng.normal(size=n)
    drawn = [(rng.random(n) < expit(2 * hardness)).astype(float) for _ in range(5)]
    mine = of(drawn[0], texts=[f"mine {i}" for i in range(n)])
    others = [of(y, texts=[f"{k} {i}" for i in range(n)]) for k, y in enumerate(drawn[1:4])]
    easy, hard = int(hardness.argmax()), int(hardness.argmin())
    texts = [f"copy {i}" if i in (easy, hard) else mine.texts[i] for i in range(n)]
    copy = of(np.where(np.arange(n) == easy, 0.0, 1.0), texts=texts)
    without, with_copy = told(mine, others), told(mine, [*others, copy])
    assert without is not None
    assert with_copy is not None
    elsewhere = [i for i in range(n) if i not in (easy, hard)]
    assert with_copy[elsewhere] == pytest.approx(without[elsewhere], abs=0.05)


def test_of_several_seeds_each_other_counts_once() -> None:
    """Two others of two seeds and one of one: their outcomes are the means over seeds. The second seed of the rated
    method repeats one other's first, which then tells nothing of either."""
    rng, n = np.random.default_rng(4), 80
    hardness = rng.normal(size=n)

    def drawn(name: str) -> Comparison:
        y = (rng.random(n) < expit(2 * hardness)).astype(float)
        return of(y, texts=[f"{name} {i}" for i in range(n)])

    def mean(runs: Sequence[Comparison]) -> Comparison:
        return of(np.mean([run.outcomes for run in runs], axis=0))

    rated = [drawn("r0"), drawn("r1")]
    a, b, c = [drawn("a0"), drawn("a1")], [drawn("b0"), drawn("b1")], [drawn("c")]
    for seeds, of_a in ((rated, a), ([rated[0], replace(rated[1], texts=a[0].texts)], a[1:])):
        found = difficulties({"r": seeds, "a": a, "b": b, "c": c})["r"]
        assert found is not None
        for one, run in zip(found, seeds, strict=True):
            assert one == pytest.approx(told(run, [mean(of_a), mean(b), mean(c)]))


@pytest.mark.parametrize("by_length", [0.3, 1.0])
def test_methods_of_one_base_do_not_hide_what_length_explains(by_length: float) -> None:
    """Four methods that share 60 % of luck and of length differences, and a judge with a taste for length that
    gives 5 points: the rate at equal length misses the truth by under a point on average, where bare outcomes of
    the others in place of the difficulty miss it by more."""
    n, errors, bare = 300, [], []
    for repetition in range(60):
        rng = np.random.default_rng([5, repetition])
        hardness, luck = rng.normal(size=n), rng.normal(size=n)
        length, shared = rng.normal(size=n) + by_length * hardness, rng.normal(size=n)
        methods = []
        for size in (-0.5, 0.0, 0.3, 0.6):
            delta = 0.4 * length + np.sqrt(0.6) * shared + np.sqrt(0.4) * rng.normal(size=n) + 0.5
            latent = np.sqrt(0.6) * luck + np.sqrt(0.4) * rng.normal(size=n)
            won = size + 0.8 * hardness + np.tanh(delta / delta.std(ddof=1)) + 1.7 * latent > 0
            methods.append(of(won.astype(float), delta))
        # Untouched by length, the same method wins with probability Φ((size + 0.8 hardness) / 1.7) on a prompt.
        truth = float(norm.cdf((0.3 + 0.8 * hardness) / 1.7).mean())
        rated, others = methods[2], [methods[0], methods[1], methods[3]]
        for gamma, into in ((told(rated, others), errors), (sum(o.outcomes for o in others), bare)):
            found = length_controlled_win_rate(
                rated.outcomes, rated.delta, np.zeros(n), difficulty=gamma, n_resamples=2
            )
            assert found is not None
            into.append(100 * (found.value - truth))
    assert abs(np.mean(errors)) < 1
    assert np.mean(bare) > np.mean(errors) + 1
