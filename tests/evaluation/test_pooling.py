"""Several training seeds, with numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation.outputs_of import make, study
from trimtab.evaluation.answers import Answers, Options
from trimtab.evaluation.cautions import warnings_of
from trimtab.evaluation.compare import compare
from trimtab.evaluation.estimate import INDEPENDENT, OTHER_SEEDS, Estimate, SeedSpread
from trimtab.evaluation.method_numbers import method_result
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.pooling import pool, pool_overall, spread_of
from trimtab.evaluation.results import Comparison, Provenance, Results, StageCurves
from trimtab.evaluation.sign_flips import sign_flip_p_value
from trimtab.evaluation.statistics import bootstrap_interval, t_interval, wilson_interval
from trimtab.evaluation.verdict import clear, find, verdict

T2 = 4.302653  # Student's t, 97.5 %, 2 degrees of freedom


def test_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, half width t · 1 / √3 = 4.3027 / 1.7321 = 2.484."""
    found = t_interval([1, 2, 3])
    assert found is not None
    assert found.pair() == pytest.approx((2 - 2.484, 2 + 2.484), abs=5e-4)
    assert t_interval([5.0]) is None


def test_pool_by_hand() -> None:
    """Two prompts, three seeds with means 1, 2, 3. The prompts' averages are 1 and 3, so that resampled means are
    1 or 2 or 3 with chances ¼, ½, ¼, and their 2.5 and 97.5 % points 1 and 3."""
    found = pool(np.array([[0.0, 1, 2], [2, 3, 4]]), [7, 8, 9], n_resamples=500)
    assert found is not None
    assert found.spread is not None
    assert found.mean == 2
    assert found.n == 2
    assert found.parts_P.tolist() == [1, 3]
    assert found.spread.values == {7: 1, 8: 2, 9: 3}
    assert found.spread.within_ci95 == (1, 3)
    between = (2 - T2 / math.sqrt(3), 2 + T2 / math.sqrt(3))
    assert found.spread.between_ci95 == pytest.approx(between, abs=1e-5)
    half = math.sqrt(T2**2 / 3 + 1)  # both seeds' and prompts' side, in quadrature
    assert found.ci95 == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.basis.model_dump() == {
        "method": "seeds",
        "unit": "prompts",
        "units": 2,
        "assumptions": [INDEPENDENT.format("Prompts"), OTHER_SEEDS],
    }


def test_what_prompts_and_seeds_do_together_counts_once() -> None:
    """Parts 4/3 and 7/3, variance of their mean ¼. What is left of prompts and seeds is (−1, −1, 2) and (1, 1, −2):
    12 / ((2 − 1) (3 − 1) · 2 · 3) = 1, which is all of it and more, so that the interval is that between seeds,
    whose means 1.5, 1.5 and 2.5 have s / √3 = ⅓."""
    found = pool(np.array([[0.0, 0, 4], [3, 3, 1]]), [0, 1, 2], n_resamples=200)
    assert found is not None
    assert found.spread is not None
    assert found.spread.within_ci95 == pytest.approx((4 / 3, 7 / 3))
    assert found.ci95 == pytest.approx((11 / 6 - T2 / 3, 11 / 6 + T2 / 3), abs=1e-5)


def test_rows_of_one_prompt_are_pooled_as_one() -> None:
    """Three rows, of which two are of one prompt: the cluster's mean 2, the other's 5; rows alone would reach 1."""
    found = pool(np.array([[1.0], [3.0], [5.0]]), [0], clusters=np.array([4, 4, 9]), n_resamples=200)
    assert found is not None
    assert found.ci95 == (2, 5)
    assert (found.n, found.basis.unit, found.basis.units) == (3, "clusters of rows", 2)
    alone = pool(np.array([[1.0], [3.0], [5.0]]), [0], clusters=np.array([4, 7, 9]), n_resamples=200)
    assert alone is not None
    assert alone.clusters_P is None
    assert alone.ci95 == (1, 5)


def test_seeds_that_agree_leave_the_prompts_doubt() -> None:
    """Both seeds 2: no spread between them, and 0 to 4 over prompts."""
    found = pool(np.array([[0.0, 0], [4, 4]]), [0, 1], n_resamples=500)
    assert found is not None
    assert found.spread is not None
    assert found.spread.between_ci95 == (2, 2)
    assert found.ci95 == (0, 4)


def test_missing_scores_keep_the_mean_of_means() -> None:
    """Seed means (1 + 3) / 2 = 2 and 5, pooled 3.5. Parts: 3.5 + (1 − 2) / 2 = 3 and 3.5 + (3 − 2) / 2 = 4."""
    found = pool(np.array([[1, np.nan], [3, 5.0], [np.nan, np.nan]]), [0, 1], n_resamples=50)
    assert found is not None
    assert (found.mean, found.n, found.parts_P.tolist()) == (3.5, 2, [3.0, 4.0])
    assert pool(np.full((3, 2), np.nan), [0, 1]) is None
    one = pool(np.array([[1, np.nan], [3, np.nan]]), [0, 1], n_resamples=50)
    assert one is not None
    assert one.mean == 2
    assert one.spread is None, "one seed has a number"


def test_rates_stay_between_0_and_1() -> None:
    """Two seeds with 0.5 and 1: t = 12.7, so the interval is cut off on both sides. All won: Wilson's."""
    found = pool(np.array([[1.0, 1], [0, 1]]), [0, 1], rate=True, n_resamples=50)
    assert found is not None
    assert found.ci95 == (0, 1)
    won = pool(np.ones((9, 2)), [0, 1], rate=True)
    assert won is not None
    assert won.ci95 == pytest.approx(wilson_interval(9, 9).pair())


def test_coverage_of_the_headline() -> None:
    """400 studies of 3 seeds and 60 prompts (benchmarks/coverage.py: 2 to 20). Where prompts are all the noise,
    t over seeds misses; where seeds are, the bootstrap over prompts does; the headline covers in both."""
    rng = np.random.default_rng(0)
    for seed_sd, poor in ((0.0, "between_ci95"), (0.3, "within_ci95")):
        covered, missed = 0, 0
        for _ in range(400):
            x = rng.normal(0, seed_sd, (1, 3)) + rng.normal(0, 0.5, (60, 1)) + rng.normal(0, 0.2, (60, 3))
            found = pool(x, [0, 1, 2], n_resamples=200)
            assert found is not None
            ci = getattr(found.spread, poor)
            covered += found.ci95[0] <= 0 <= found.ci95[1]
            missed += not ci[0] <= 0 <= ci[1]
        assert 0.93 * 400 < covered < 0.99 * 400
        assert missed > 0.15 * 400


def test_one_method_over_seeds() -> None:
    """Rows of three seeds, opponent at 1: outcomes (1, 0), (1, ½), (1, 1), win rates ½, ¾, 1 with mean ¾."""
    opponent = make("them", [1.0, 1.0])
    runs = {s: make("dpo", [2.0, score], tokens=t) for s, (score, t) in enumerate([(0.0, 4), (1.0, 6), (2.0, 8)])}
    for seed, outputs in runs.items():
        outputs.perplexity = 10.0 + seed
        outputs.generations[0].terminated = False
        outputs.generations[0].completion = ["a b c d", "a b c", "a b"][seed]
    found = method_result(
        [Answers(o, opponent, ["a b c d", "x"], [5, 5]) for o in runs.values()],
        list(runs),
        Options(n_resamples=100),
    )
    assert found.value("judge_score") == pytest.approx((1 + 1.5 + 2) / 3)
    rate = found.estimates["win_rate"]
    assert rate.seeds is not None
    assert rate.seeds.values == {0: 0.5, 1: 0.75, 2: 1.0}
    assert rate.n == 6
    assert found.value("excess_length") == pytest.approx((0 + 1 + 3) / 3)
    assert found.value("terminated") == 0.5
    perplexity = found.estimates["perplexity"]
    assert perplexity.value == 11
    assert perplexity.seeds is not None
    assert perplexity.seeds.within_ci95 is None
    assert perplexity.seeds.between_ci95 == pytest.approx((11 - T2 / 3**0.5, 11 + T2 / 3**0.5), abs=1e-5)
    assert found.value("bleu_1") is not None
    assert found.estimates["bleu_1"].seeds is None, "it only stands beside BLEU-4"
    assert found.behaviours["loops"] == 0
    assert found.behaviours["repeated_ngrams"] == 0


def test_what_is_no_mean_over_prompts_is_averaged_over_seeds() -> None:
    """0.4, 0.5, 0.6, each ± 0.1: mean ½, within ± 0.1, between ± 0.1 · t / √3, both in quadrature. One seed's
    stays as it is."""
    by_seed = [Estimate(value=0.4 + s / 10, ci95=(0.3 + s / 10, 0.5 + s / 10), n=2) for s in range(3)]
    found = pool_overall(by_seed, [0, 1, 2], (0.0, 1.0))
    assert found is not None
    assert found.seeds is not None
    assert found.value == pytest.approx(0.5)
    assert found.n == 2
    assert found.seeds.within_ci95 == pytest.approx((0.4, 0.6))
    half = 0.1 * math.sqrt(1 + T2**2 / 3)
    assert found.ci95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert pool_overall(by_seed[:1], [7], (0.0, 1.0)) == by_seed[0]
    assert pool_overall([None, None], [0, 1]) is None


def test_pairs_over_seeds() -> None:
    """sft − base per seed: (1 + 3) / 2 = 2 and (1 + 1) / 2 = 1, mean 1.5; a prompt's averages are 1 and 2."""
    base = [Answers(make("base", [0.0, 0.0]))]
    sft = [Answers(make("sft", scores)) for scores in ([1.0, 3.0], [1.0, 1.0])]
    comparisons = compare({"base": base, "sft": sft}, [0, 1], Options(n_resamples=100))
    found = {c.metric: c for c in comparisons}
    c = found["judge_score"]
    assert (c.a, c.b, c.difference, c.n) == ("sft", "base", 1.5, 2)
    assert c.seeds is not None
    assert c.seeds.values == {0: 2, 1: 1}
    assert c.seeds.within_ci95 == (1, 2)
    assert found["length"].difference == 0


def test_two_that_no_seed_touches_are_compared_once() -> None:
    answers = {m.name: [Answers(m)] for m in (make("base", [0.0, 1.0, 5.0]), make("other", [1.0, 1.0, 1.0]))}
    found, plain = (compare(answers, seeds, Options(n_resamples=100)) for seeds in ([0, 1], [0]))
    assert [c.seeds for c in found] == [None, None]
    assert [(c.difference, c.n, c.p_value) for c in found] == [(c.difference, c.n, c.p_value) for c in plain]


def runs(*scores: list[float | None]) -> dict[int, list]:
    return {s: [make("sft", row)] for s, row in enumerate(scores)}


def test_one_seed_has_no_spread_and_plain_intervals() -> None:
    """The only seed gives what no seed touches gives: bootstrap and sign flips of the values as they are."""
    base, them = make("base", [0.0, 1.0, 0.1]), make("them", [1.0, 1.0, 0.3])
    found = study({4: [make("sft", [2.0, 0.0, 0.7])]}, them, fixed=[base], n_resamples=50)
    plain = study({}, them, fixed=[base, make("sft", [2.0, 0.0, 0.7])], n_resamples=50)
    assert found == plain
    score = found.methods["sft"].estimates["judge_score"]
    assert (score.ci95, score.seeds) == (bootstrap_interval([2.0, 0.0, 0.7], n_resamples=50).pair(), None)
    differences = np.array([2.0, 0.0, 0.7]) - np.array([0.0, 1.0, 0.1])
    [c] = [c for c in found.comparisons if c.metric == "judge_score"]
    assert c.ci95 == bootstrap_interval(differences, n_resamples=50).pair()
    assert c.p_value == sign_flip_p_value(differences, n_resamples=50)
    assert '"seeds":{}' in found.model_dump_json()


def test_a_study_of_seeds() -> None:
    base, them = make("base", [0.0, 0.0, 0.0]), make("them", [1.0, 1.0, 1.0])
    curves = {s: {"sft": StageCurves(train=[{"step": 1, "loss": float(s)}])} for s in range(3)}
    found = study(
        runs([2.0, 0.0, 0.0], [2.0, 2.0, 0.0], [2.0, 2.0, 2.0]),
        them,
        fixed=[base],
        curves=curves,
        provenance=Provenance(seeds=[0, 1, 2]),
        n_resamples=100,
    )
    w = found.methods["sft"].win_counts
    assert w is not None
    assert found.methods["sft"].value("win_rate") == pytest.approx((1 / 3 + 2 / 3 + 1) / 3)
    assert (w.n, w.ties, w.missing) == (9, 0, 0)
    assert all(estimate.seeds is None for estimate in found.methods["base"].estimates.values())
    assert found.lengths["sft"] == [4] * 9
    assert found.lengths["base"] == [4] * 3
    assert found.curves == curves[0]
    assert found.curves_of("sft") == {s: curves[s]["sft"] for s in range(3)}
    assert "33.3, 66.7 and 100.0 by seed" in " ".join(found.verdict)
    assert "Only 3 prompts" in " ".join(found.warnings)
    assert "One training seed" not in " ".join(found.warnings)
    assert Results.model_validate_json(found.to_json()) == found


def test_seeds_must_have_the_same_methods() -> None:
    with pytest.raises(ValueError, match="the same methods"):
        study({0: [make("sft", [1.0])], 1: [make("dpo", [1.0])]}, None)
    with pytest.raises(ValueError, match="no method to summarise"):
        study({}, None)
    renamed = replace(make("sft", [1.0, 2.0]))
    renamed.generations[0].prompt = "another"
    with pytest.raises(Exception, match="another prompt"):
        study({0: [make("sft", [1.0, 2.0])], 1: [renamed]}, None)


def test_a_gain_that_seeds_do_not_repeat_is_not_clear() -> None:
    """Over prompts 2 to 8 points and p = 0.001, over seeds −10 to 20."""
    spread = SeedSpread(values={0: 0.0, 1: 0.1}, between_ci95=(-0.1, 0.2), within_ci95=(0.02, 0.08))
    numbers = {"difference": 0.05, "ci95": (-0.1, 0.2), "p_value": 0.001, "p_holm": 0.001}
    c = Comparison(a="dpo", b="base", metric="win_rate", seeds=spread, **numbers)
    assert not clear(c)
    r = Results(name="t", methods={"base": MethodResult(), "dpo": MethodResult()}, comparisons=[c])
    assert verdict(r) == [
        "DPO against Base: clear in these training runs, but the seeds differ too much to expect it again, +5.0 "
        "points of win rate (95 % interval −10.0 to 20.0; p = 0.001 after Holm's correction; +0.0 and +10.0 by "
        "seed)."
    ]
    turned = find(r, "base", "dpo", "win_rate")
    assert turned is not None
    assert turned.seeds is not None
    assert turned.seeds.within_ci95 == (-0.08, -0.02)
    assert turned.seeds.values == {0: 0.0, 1: -0.1}
    r.provenance.seeds = [0, 1]
    assert warnings_of(r) == [
        "Two seeds: what another seed would change is told from one difference, so intervals are very wide."
    ]
    assert spread_of({0: 1.0}) is None
