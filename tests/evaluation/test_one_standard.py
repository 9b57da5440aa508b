"""A claim against the opponent is made by the standard of a claim between methods; no interval of a rate is beyond
what a rate can be."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.outputs_of import make, study
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.pooling import pool, spread_of
from trimtab.evaluation.verdict import clear

HALF = [0.0] * 10


def wins(count: int) -> list[float]:
    """Of ten prompts, against scores of 0."""
    return [1.0] * count + [-1.0] * (10 - count)


def said_of(sentences: list[str], who: str) -> str:
    return next(s for s in sentences if s.startswith(who) and "highest win rate" not in s)


def test_few_prompts_are_suggestive_against_the_opponent_too() -> None:
    """Nine of ten: 2 · (1 + 10 / 2) / 1024 = 0.0117 by sign flips, mid-p. One claim: it stands. Four methods make
    six pairs and six claims, and times six it does not."""
    alone = study([make("sft", wins(9))], make("tiny", HALF))
    rate = alone.methods["sft"].win_counts
    assert rate is not None
    assert rate.p_value == pytest.approx(12 / 1024)
    assert rate.p_holm == rate.p_value
    assert said_of(alone.verdict, "SFT").startswith("SFT beats tiny: win rate 90.0 %")

    others = [make("dpo", wins(4)), make("grpo", wins(5))]
    four = study([make("base", HALF), make("sft", wins(9)), *others], make("tiny", HALF))
    rate = four.methods["sft"].estimates["win_rate"]
    assert rate.ci95 is not None
    assert rate.ci95[0] > 0.5
    assert said_of(four.verdict, "SFT").startswith("SFT against tiny: suggestive only, win rate 90.0 % (")
    assert "after Holm's correction, as between methods" in said_of(four.verdict, "SFT")


@pytest.mark.parametrize("count", range(11))
def test_where_base_is_the_opponent_both_claims_are_one(count: int) -> None:
    """The same ten comparisons, so the same p-value and the same word."""
    names = {"sft": wins(count), "dpo": wins(5), "grpo": wins(5)}
    methods = [make("base", HALF), *(make(name, scores) for name, scores in names.items())]
    found = study(methods, make("tiny", HALF))
    rate = found.methods["sft"].win_counts
    pair = next(c for c in found.comparisons if (c.a, c.b, c.metric) == ("sft", "base", "win_rate"))
    assert rate is not None
    assert (rate.p_value, rate.p_holm) == (pair.p_value, pair.p_holm)
    against_opponent = said_of(found.verdict, "SFT")
    against_base = said_of(found.verdict, "SFT against Base")
    assert ("beats" in against_opponent or "loses to" in against_opponent) == clear(pair)
    if "suggestive only" in against_opponent:
        assert "suggestive only" in against_base


def test_seeds_use_the_same_standard() -> None:
    per_seed = {0: [make("sft", wins(9))], 1: [make("sft", wins(8))]}
    found = study(per_seed, make("tiny", HALF), fixed=[make("base", HALF)])
    rate = found.methods["sft"].win_counts
    pair = next(c for c in found.comparisons if c.metric == "win_rate")
    assert rate is not None
    assert rate.p_value == pair.p_value


def test_no_rate_and_no_difference_of_rates_is_beyond_what_it_can_be() -> None:
    """Two seeds whose means are 1 and 0.2: Student's interval of them is 0.6 ± 5.1."""
    values = np.array([[1.0, 0.0], [1.0, 0.4], [1.0, 0.2]])
    for bounds in ((-1.0, 1.0), (0.0, 1.0)):
        found = pool(values, [0, 1], bounds=bounds)
        assert found is not None
        assert found.spread is not None
        assert found.ci95 == found.spread.between_ci95 == bounds
    free = pool(values, [0, 1])
    assert free is not None
    assert free.ci95[1] == pytest.approx(0.6 + 12.706 * 0.4, abs=0.01)

    per_seed = {0: [make("sft", wins(10))], 1: [make("sft", wins(0))]}
    results = study(per_seed, make("tiny", HALF), fixed=[make("base", HALF)])
    for one in results.comparisons:
        if one.metric == "win_rate":
            assert -1 <= one.ci95[0] <= one.ci95[1] <= 1


def test_bounds() -> None:
    share, scale = np.array([0.0, 1.0]), np.array([0.0, 4.0])
    assert METRICS["win_rate"].bounds(share) == METRICS["correctness"].bounds(share) == (0, 1)
    assert METRICS["win_rate"].bounds(share, difference=True) == (-1, 1)
    assert METRICS["correctness"].bounds(share, scale) is None
    assert METRICS["length"].bounds(scale) == (0, np.inf)
    assert METRICS["length"].bounds(scale, difference=True) is METRICS["judge_score"].bounds(scale) is None
    spread = spread_of({0: 0.1, 1: 0.9}, bounds=(0, 1))
    assert spread is not None
    assert spread.between_ci95 == (0, 1)
