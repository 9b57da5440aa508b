"""Bradley-Terry strengths by hand, against statsmodels, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from scipy.special import expit

from evaluation.outputs_of import make, study
from trimtab.evaluation.bradley_terry import bradley_terry, fit, outcomes_of_pairs
from trimtab.evaluation.results import Results


def test_two_by_hand() -> None:
    """30 to 10 wins and half a win each way: ± ½ log(30.5 / 10.5). Never beaten: ± ½ log(10.5 / 0.5)."""
    found = fit(np.array([[[0.0, 30], [10, 0]], [[0, 10], [0, 0]]]))
    assert found[0] == pytest.approx([0.5 * math.log(30.5 / 10.5), -0.5 * math.log(30.5 / 10.5)])
    assert found[1] == pytest.approx([0.5 * math.log(21), -0.5 * math.log(21)])


def test_ties_and_missing_scores() -> None:
    """Scores 1, 1, – against 1, 0, 0: a tie, a win, and a prompt that nobody met on."""
    scores = {"a": np.array([[1.0], [1], [np.nan]]), "b": np.array([[1.0], [0], [0]])}
    pairs = outcomes_of_pairs(scores)
    assert pairs[0, 1, :2].tolist() == [0.5, 1.0]
    assert pairs[1, 0, :2].tolist() == [0.5, 0.0]
    assert np.isnan(pairs[:, :, 2]).all()
    seeds = {"a": np.array([[1.0, 0.0]]), "b": np.array([[0.5]])}
    assert outcomes_of_pairs(seeds)[0, 1].tolist() == [0.5], "won with one seed, lost with the other"
    [first, second] = bradley_terry(["a", "b"], pairs, n_resamples=100)
    assert (first.name, first.strength.n) == ("a", 2)
    assert first.strength.value == pytest.approx(0.5 * math.log(2 / 1)) == -second.strength.value
    assert first.elo == pytest.approx(1000 + 200 * math.log10(2))
    assert bradley_terry(["a", "b"], np.full((2, 2, 3), np.nan)) == []


@pytest.mark.parametrize("outcome", [1.0, 0.5, 0.0])
def test_where_no_outcome_varies_an_interval_says_what_could_hide(outcome: float) -> None:
    """Two methods and 30 prompts, all won, tied or lost. Jeffreys' posterior leaves a share u of other outcomes, of
    which 2.5 % lie above its quantile: wins 30 (1 − u) and half a one, against 30 u and half a one. Ties that are
    none fall either way, so that the 5 % above another quantile do, and each is half a win."""
    won = np.full((2, 2, 30), outcome)
    won[1, 0] = 1 - outcome
    strengths = {one.name: one.strength for one in bradley_terry(["a", "b"], won, n_resamples=20_000)}
    ends = strengths["a"].ci95
    assert ends is not None
    assert ends[0] <= strengths["a"].value <= ends[1]
    u = scipy.stats.beta.ppf(0.975 if outcome != 0.5 else 0.95, 0.5, 30.5)
    lost = 30 * (u if outcome != 0.5 else (1 + u) / 2)
    beyond = 0.5 * math.log((30.5 - lost) / (lost + 0.5))
    assert (ends[1] if outcome == 0.0 else ends[0]) == pytest.approx(
        -beyond if outcome == 0.0 else beyond, abs=0.03
    )
    assert ends[1] - ends[0] > 0.05


def test_prompts_of_one_cluster_show_as_much_as_one() -> None:
    """A pair that met on 30 rows of one cluster only, beside one that met on 30 others, may hide far more."""
    won = np.full((3, 3, 60), np.nan)
    won[0, 1, :30], won[1, 0, :30] = 1.0, 0.0
    won[1, 2, 30:], won[2, 1, 30:] = 1.0, 0.0
    alone, together = np.arange(60), np.concatenate([np.zeros(30, dtype=int), np.arange(1, 31)])
    ends = [
        {one.name: one.strength.ci95 for one in bradley_terry(list("abc"), won, clusters=clusters)}["a"]
        for clusters in (alone, together)
    ]
    assert all(end is not None for end in ends)
    assert ends[1][0] < ends[0][0] - 0.5  # type: ignore[index]


def test_same_as_statsmodels() -> None:
    """A binomial GLM of each pair's wins, no constant, no prior."""
    rng = np.random.default_rng(0)
    wins = rng.integers(5, 40, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)
    rows, counts = [], []
    for i in range(4):
        for j in range(i + 1, 4):
            row = np.zeros(4)
            row[i], row[j] = 1, -1
            rows.append(row[1:])  # the first one's strength is 0
            counts.append([wins[i, j], wins[j, i]])
    expected = np.concatenate([[0], sm.GLM(counts, rows, family=sm.families.Binomial()).fit(tol=1e-12).params])
    assert fit(wins[None], prior=0.0)[0] == pytest.approx(expected - expected.mean(), abs=1e-6)


def test_coverage() -> None:
    """120 studies of 4 methods and 100 prompts, of which each is answered once by all: 480 intervals."""
    rng = np.random.default_rng(1)
    truth = np.array([0.6, 0.2, -0.2, -0.6])
    held = 0
    for _ in range(120):
        p = expit(truth[:, None] - truth[None, :])[:, :, None]
        won = (rng.random((4, 4, 100)) < p).astype(float)
        pairs = np.where(np.arange(4)[:, None, None] < np.arange(4)[None, :, None], won, 1 - won.transpose(1, 0, 2))
        found = bradley_terry(list("abcd"), pairs, n_resamples=200)
        for one in found:
            low, high = one.strength.ci95 or (1, 0)
            held += low <= truth["abcd".index(one.name)] <= high
    assert 0.90 <= held / 480 <= 0.98


def test_results_rank_more_than_three() -> None:
    """sft beats all and never loses, and all are beaten by it alike."""
    methods = [make("base", [0.0] * 8), make("sft", [3.0] * 8), make("dpo", [1.0, 0.0] * 4)]
    them = make("them", [0.0, 1.0] * 4)
    found = study(methods, them, n_resamples=50)
    assert found.ranking[0].name == "sft"
    assert len(found.ranking) == 4
    assert all(np.isfinite(one.strength.value) for one in found.ranking)
    assert Results.model_validate_json(found.to_json()) == found
    assert study(methods[:2], them, n_resamples=50).ranking == [], "three are read from their pairs"
