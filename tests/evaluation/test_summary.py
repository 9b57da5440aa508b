"""From rows on disk to results.json and its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluation.outputs_of import make, stored, study
from trimtab.audit.markers import Marker
from trimtab.audit.preferences import audit
from trimtab.catalogue import ordered_methods
from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import Answers, Options
from trimtab.evaluation.cautions import warnings_of
from trimtab.evaluation.compare import compare
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.outputs import (
    Generation,
    Score,
    read_generations,
    read_scores,
    write_rows,
)
from trimtab.evaluation.results import (
    Comparison,
    Provenance,
    Results,
    StageCurves,
)
from trimtab.evaluation.summary import worded
from trimtab.evaluation.verdict import mostly_missing, verdict


def test_rows_round_trip(tmp_path: Path) -> None:
    """U+2028 is a line end for Python but not for JSON Lines."""
    rows = [Generation(id="a", prompt="p\n", completion="x\u2028y</script>", tokens=3, terminated=False)]
    write_rows(tmp_path / "g.jsonl", rows)
    assert read_generations(tmp_path / "g.jsonl") == rows
    scores = [Score(id="a", score=None, reason="timeout", breakdown={"direct": 0.5})]
    write_rows(tmp_path / "s.jsonl", scores)
    assert read_scores(tmp_path / "s.jsonl") == scores


def test_bad_rows_say_where(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"id": "a", "score": 1}\n{"id": "b", "score": NaN}\n')
    with pytest.raises(TrimtabError, match=r"s\.jsonl:2"):
        read_scores(path)
    path.write_text('{"id": "a", "score": 1}\n{"id": "a", "score": 2}\n')
    with pytest.raises(TrimtabError, match="duplicated id a"):
        read_scores(path)


def test_misaligned_rows_say_which() -> None:
    opponent, dpo = make("them", [1.0, 2.0, 3.0]), make("dpo", [1.0, 2.0, 3.0])
    dpo.scores.pop(1)
    with pytest.raises(TrimtabError, match="scores of dpo: no row for id p1"):
        study([dpo], opponent)
    dpo = make("dpo", [1.0, 2.0, 3.0])
    dpo.generations[2].prompt = "another"
    with pytest.raises(TrimtabError, match="dpo: id p2 has another prompt"):
        study([dpo], opponent)
    with pytest.raises(TrimtabError, match="duplicated id dpo"):
        study([make("dpo", [1.0]), make("dpo", [1.0])], make("them", [1.0]))
    with pytest.raises(ValueError, match="references: 1 for 3 prompts"):
        study([make("dpo", [1.0, 2.0, 3.0])], opponent, ["x"])


def test_order_of_rows_does_not_matter() -> None:
    opponent, dpo = make("them", [1.0, 2.0, 3.0]), make("dpo", [2.0, 2.0, 0.0])
    straight = study([dpo], opponent, n_resamples=50)
    dpo.scores.reverse()
    dpo.generations = dpo.generations[1:] + dpo.generations[:1]
    assert study([dpo], opponent, n_resamples=50) == straight
    assert straight.methods["dpo"].value("win_rate") == 0.5


def test_comparisons_by_hand() -> None:
    """Outcomes against (0, 0, 0, 0): sft 0, ½, 1, –; dpo 1, 1, 1, 1. Over the first three: (1 + ½ + 0) / 3."""
    sft, dpo = make("sft", [-1.0, 0.0, 1.0, None], tokens=4), make("dpo", [1.0, 3.0, 1.0, 1.0], tokens=6)
    them = make("them", [0.0] * 4)
    found = compare({m.name: [Answers(m, them)] for m in (sft, dpo)}, [0], Options(n_resamples=200))
    shown = ("win_rate", "judge_score", "length")
    found = [c for c in found if c.metric in shown]
    assert [(c.a, c.b, c.metric, c.n) for c in found] == [
        ("dpo", "sft", "win_rate", 3),
        ("dpo", "sft", "judge_score", 3),
        ("dpo", "sft", "length", 4),
    ]
    assert [c.difference for c in found] == pytest.approx([0.5, 5 / 3, 2.0])
    assert all(0 < c.p_value <= 1 for c in found)


def test_excess_length_by_hand() -> None:
    """6 tokens against chosen ones of 4, 6 and 9: max(0, 2), 0, 0, mean ⅔. 4 tokens: all 0. Difference ⅔."""
    sft, penalised = make("sft", [1.0, 1.0, 1.0], tokens=6), make("sft_length", [1.0, 1.0, 1.0], tokens=4)
    r = study([sft, penalised], None, chosen_lengths=[4, 6, 9], n_resamples=200)
    excess = r.methods["sft"].estimates["excess_length"]
    assert excess.value == pytest.approx(2 / 3)
    assert excess.ci95 == (0, 2), "resamples of (2, 0, 0): three twos and no two are both within 2.5 %"
    assert excess.n == 3
    [c] = [c for c in r.comparisons if c.metric == "excess_length"]
    assert (c.a, c.b) == ("sft_length", "sft")
    assert c.difference == pytest.approx(-2 / 3)
    plain = study([sft, penalised], None, n_resamples=50)
    assert "excess_length" not in plain.methods["sft"].estimates
    assert "excess_length" not in {c.metric for c in plain.comparisons}


def test_correctness_by_hand() -> None:
    """1, −1, 0 and ½, ½, failed: means 0 and ½. Paired over the first two prompts: (−½ + 1½) / 2 = ½."""
    sft = make("sft", [1.0, 1.0, 1.0], correctness=[1.0, -1.0, 0.0])
    dpo = make("dpo", [1.0, 1.0, None], correctness=[0.5, 0.5, None])
    r = study([sft, dpo], None, n_resamples=50)
    found = {name: m.estimates["correctness"] for name, m in r.methods.items()}
    assert (found["sft"].value, found["sft"].n) == (0, 3)
    assert (found["dpo"].value, found["dpo"].n) == (0.5, 2)
    [c] = [c for c in r.comparisons if c.metric == "correctness"]
    assert (c.difference, c.n) == (0.5, 2)


@pytest.mark.parametrize("odd", [None, "yes", True])
def test_correctness_needs_every_score_to_have_one(odd: object) -> None:
    sft = make("sft", [1.0, 1.0], correctness=[1.0, 1.0])
    sft.scores[1].breakdown = {} if odd is None else {"correctness": odd}
    r = study([sft, make("dpo", [1.0, 1.0], correctness=[1.0, 0.0])], None, n_resamples=50)
    assert "correctness" not in r.methods["sft"].estimates
    assert "correctness" in r.methods["dpo"].estimates
    assert "correctness" not in {c.metric for c in r.comparisons}


def test_verdict_says_what_the_length_penalty_cost() -> None:
    """10 tokens and 5 less over a chosen length of 2; correctness 1 and ½. Nothing varies: of other prompts up to
    1 − 0.025^¼ = 60.2 % may differ, by −1 to 1 in correctness: −½ − 0.602 · ½ to −½ + 0.602 · 1½. Lengths have no
    bounds."""
    sft = make("sft", [1.0] * 4, tokens=12, correctness=[1.0] * 4)
    penalised = make("sft_length", [1.0] * 4, tokens=7, correctness=[0.5] * 4)
    r = study([sft, penalised], None, chosen_lengths=[2] * 4, n_resamples=50)
    assert r.verdict[-1] == (
        "SFT + length penalty against SFT: mean excess over the chosen length fell by 5.0 tokens [−5.0, −5.0]; "
        "correctness changed by −50.0 points [−80.1, +40.4]."
    )


def test_without_judge_or_opponent() -> None:
    dpo = make("dpo", [1.0, 2.0])
    dpo.scores = []
    m = study([dpo], None).methods["dpo"]
    assert {"length", "length_median", "terminated"} <= m.estimates.keys()
    assert not {name for name in m.estimates if METRICS[name].judged}
    assert (m.win_counts, m.length_effect, m.bleu_signature) == (None, None, None)
    assert m.value("length") == 4
    assert study([dpo], None).verdict == [
        "No method was judged, so nothing here says whether alignment helped: that needs a judge and an opponent."
    ]


def test_the_opponent_has_no_win_rate() -> None:
    r = study([make("dpo", [1.0, 5.0, None])], make("them", [1.0, 2.0, 3.0]), n_resamples=50)
    assert r.opponent_result is not None
    assert not [name for name in r.opponent_result.estimates if "win_rate" in name]
    assert r.opponent_result.win_counts is None
    assert r.opponent_result.estimates["judge_score"].ci95 is not None


def test_results_round_trip(tmp_path: Path) -> None:
    r = study([make("dpo", [1.0, 5.0, None])], make("them", [1.0, 2.0, 3.0]), ["a b c d"] * 3, [4, 4, 4])
    r.write(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    assert '"schema_version": 1' in text
    assert '"4": 100' in text
    assert Results.read(tmp_path / "results.json") == r
    assert list(tmp_path.iterdir()) == [tmp_path / "results.json"]


def test_numbers_that_do_not_exist() -> None:
    with pytest.raises(ValidationError):
        stored(perplexity=float("inf"))
    with pytest.raises(ValidationError):
        Results.model_validate({"name": "t", "unknown": 1})
    with pytest.raises(ValidationError):
        Results.model_validate({"name": "t", "schema_version": 2})
    curves = StageCurves(train=[{"step": 1, "loss": float("nan")}])
    assert curves.train == [{"step": 1, "loss": None}]
    r = Results(name="t", curves={"sft": curves})
    assert warnings_of(r) == ["SFT: the loss is not a number in 1 logged rows."]


def won(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    counts = {"n": 200, "ties": 0, "missing": 0, **more}
    return {"ties_half": value, "strict": value, "ties_as_wins": value, "ci95": (low, high), **counts}


def two(base: MethodResult, dpo: MethodResult, difference: float, ci: tuple[float, float], p: float) -> Results:
    c = Comparison(a="dpo", b="base", metric="win_rate", difference=difference, ci95=ci, p_value=p, p_holm=p)
    return Results(name="t", opponent="Them", methods={"base": base, "dpo": dpo}, comparisons=[c])


def test_verdict_says_what_helped() -> None:
    r = two(
        stored(win_rate=won(0.40, 0.33, 0.47)),
        stored(win_rate=won(0.60, 0.53, 0.67, ties=1)),
        0.2,
        (0.1, 0.3),
        0.0002,
    )
    assert verdict(r) == [
        "DPO has the highest win rate, 60.0 %, clearly above every other method.",
        "Base loses to Them: win rate 40.0 % (95 % interval 33.0 to 47.0 %, n = 200, 0 ties).",
        "DPO beats Them: win rate 60.0 % (95 % interval 53.0 to 67.0 %, n = 200, 1 tie).",
        "DPO against Base: helped, +20.0 points of win rate (95 % interval 10.0 to 30.0; p < 0.001 after "
        "Holm's correction).",
    ]


def test_verdict_admits_what_it_cannot_see() -> None:
    flat = stored(win_rate=won(0.5, 0.43, 0.57))
    text = " ".join(verdict(two(flat, flat, 0.01, (-0.06, 0.08), 0.7)))
    assert "cannot be told apart from Them" in text
    assert "no measurable difference" in text
    assert "do not clearly separate" in text
    assert "suggestive only" in " ".join(verdict(two(flat, flat, 0.08, (0.01, 0.15), 0.06)))
    assert "DPO against Base: hurt" in " ".join(verdict(two(flat, flat, -0.2, (-0.3, -0.1), 0.001)))


def test_verdict_suspects_length() -> None:
    base = stored(win_rate=won(0.4, 0.33, 0.47))
    lc = {"value": 0.52, "ci95": (0.44, 0.6)}
    dpo = stored(win_rate=won(0.6, 0.53, 0.67), length_controlled_win_rate=lc)
    assert (
        "instead of 60.0 %: that its lead would hold is not shown"
        in verdict(two(base, dpo, 0.2, (0.1, 0.3), 0.001))[-1]
    )
    dpo.estimates["length_controlled_win_rate"].n = 49  # of so few the ridge alone moves the rate
    assert "length" not in "".join(verdict(two(base, dpo, 0.2, (0.1, 0.3), 0.001)))


def test_warnings() -> None:
    w = won(0.6, 0.53, 0.67, n=60, ties=20, missing=20, missing_bounds=(0.45, 0.70))
    r = Results(
        name="t",
        judge="rm",
        training_reward="rm",
        methods={"dpo": stored(win_rate=w, terminated=0.5)},
        provenance=Provenance(seeds=[42]),
    )
    text = "\n".join(warnings_of(r))
    for part in (
        "is also the training reward",
        "One training seed",
        "45.0 to 70.0 %: enough to turn the result",
        "33.3 % of its prompts are ties",
        "50.0 % of its completions were cut",
        "Only 60 prompts",
    ):
        assert part in text
    r.training_reward, r.provenance.seeds = "other", [1, 2]
    assert "training" not in "\n".join(warnings_of(r))


def test_one_line_says_who_repeats_which_markers() -> None:
    """Oftener than half as often again as the chosen texts, and in 5 %: not KTO; the opponent is no method here."""
    kind = {
        "kind": "line",
        "only_chosen": 9,
        "only_rejected": 1,
        "ratio": 6.0,
        "p_value": 0.001,
        "p_adjusted": 0.01,
    }
    shares = {"chosen_share": 0.1, "rejected_share": 0.05, "difference": 0.05, "significant": True}
    markers = [Marker.model_validate({**kind, **shares, "text": text}) for text in ("a", "b", "c")]
    rates = {
        "a": {"dpo": 0.6, "sft": 0.151, "kto": 0.149, "opponent": 0.9},
        "b": {"dpo": 0.1},
        "c": {"sft": 0.2, "dpo": None},
    }
    r = Results(name="t", methods={name: stored() for name in ("dpo", "sft", "kto")})
    r.audit = audit([]).model_copy(update={"markers": markers, "amplification": rates})
    [said] = [line for line in warnings_of(r) if "arker" in line]
    of = "(10.0 % of the chosen, 5.0 % of the rejected texts)"
    assert said == (
        f'Markers of the data that models repeat oftener: "a" {of} is in 15.1 % of SFT, 60.0 % of DPO; '
        f'"c" {of} is in 20.0 % of SFT.'
    )


def test_mostly_missing_scores_head_everything() -> None:
    """More than half: 101 of 200, and not 100. What is said of the rest stays, but no best is named."""
    half = stored(win_rate=won(0.6, 0.53, 0.67, n=100, missing=100))
    most = stored(win_rate=won(0.6, 0.53, 0.67, n=99, missing=101))
    assert mostly_missing(two(half, half, 0.0, (-0.1, 0.1), 1.0)) == []
    r = worded(two(half, most, 0.0, (-0.1, 0.1), 1.0), ["The sandbox."])
    assert r.warnings[0].startswith("MOST SCORES ARE MISSING: DPO has a score for 99 of 200 prompts")
    assert r.warnings[1] == "The sandbox."
    assert r.summary == "No conclusion: most of the judge's scores are missing."
    assert not any("highest win rate" in sentence for sentence in r.verdict)


def test_order_of_methods() -> None:
    assert ordered_methods(["grpo", "mine", "base"]) == ["base", "grpo", "mine"]
