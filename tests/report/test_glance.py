"""The head of the page: where points, intervals and the opponent's line stand, and what each method changed."""

from __future__ import annotations

import pytest

from evaluation.outputs_of import make, study
from report.pages import Page
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.results import Comparison, Results
from trimtab.report.glance import forest_of, glance, start_of
from trimtab.report.grouping import grouped_verdict, grouped_warnings


def rated(value: float, low: float, high: float) -> MethodResult:
    return MethodResult(estimates={"win_rate": Estimate(value=value, ci95=(low, high), n=100)})


def test_places_are_proportional_and_the_best_is_first() -> None:
    """From 30 to 70 %, with 6 % of the range to spare at both ends: 27.6 to 72.4."""
    r = Results(name="t", opponent="O", methods={"sft": rated(0.4, 0.3, 0.5), "dpo": rated(0.6, 0.5, 0.7)})
    forest = forest_of(r)
    assert forest is not None
    assert [lane.shown for lane in forest.lanes] == ["DPO", "SFT"]
    best, worst = forest.lanes
    assert (best.place, best.ends) == (pytest.approx(72.32, abs=0.01), pytest.approx((50, 94.64), abs=0.01))
    assert worst.ends == pytest.approx((5.36, 50), abs=0.01)
    assert forest.line == ("even with O", 50)
    assert ("50", 50) in forest.ticks
    assert best.text == "60.0 [50.0, 70.0]"
    assert forest.csv.splitlines()[1] == "dpo,0.6,0.5,0.7"


def test_scores_are_read_against_the_opponents_own() -> None:
    scored = {
        name: MethodResult(estimates={"judge_score": Estimate(value=value, ci95=(value - 1, value + 1), n=9)})
        for name, value in (("a", 2.0), ("b", 4.0), ("O", 3.0))
    }
    opponent = scored.pop("O")
    forest = forest_of(Results(name="t", opponent="O", opponent_result=opponent, methods=scored))
    assert forest is not None
    assert forest.line == ("O", 50)


def test_nothing_to_draw_is_nothing() -> None:
    assert glance(Results(name="t", methods={"sft": MethodResult()})) == ""


def test_what_each_is_set_beside() -> None:
    """As the sentences: SFT beside the base, what comes after beside SFT; a comparison's by its own start."""
    study = Results(name="t", opponent="O", methods={name: MethodResult() for name in ("base", "sft", "dpo")})
    assert [start_of(study, name) for name in study.methods] == [None, "base", "sft"]
    study.began_at = {"dpo": "base"}
    assert [start_of(study, name) for name in study.methods] == [None, "base", "base"]
    two = Results(name="t", opponent="O", start="a", methods={"a": MethodResult(), "b": MethodResult()})
    assert [start_of(two, name) for name in two.methods] == [None, "a"]
    several = Results(name="t", opponent="O", methods={"model": MethodResult(), "other": MethodResult()})
    assert [start_of(several, name) for name in several.methods] == ["O", "O"]


def test_the_word_is_that_of_the_outcome() -> None:
    clear = Comparison(a="sft", b="base", metric="win_rate", difference=0.2, ci95=(0.1, 0.3), p_value=0.001)
    open_one = Comparison(a="dpo", b="sft", metric="win_rate", difference=-0.02, ci95=(-0.1, 0.06), p_value=0.6)
    methods = {"base": rated(0.3, 0.2, 0.4), "sft": rated(0.5, 0.4, 0.6), "dpo": rated(0.48, 0.4, 0.6)}
    forest = forest_of(Results(name="t", opponent="O", methods=methods, comparisons=[clear, open_one]))
    assert forest is not None
    changes = {lane.shown: lane.change for lane in forest.lanes}
    assert changes["Base"] is None
    sft, dpo = changes["SFT"], changes["DPO"]
    assert sft is not None
    assert (sft.word, sft.size, sft.against) == ("helped", "+20.0 [+10.0, +30.0]", "Base")
    assert dpo is not None
    assert (dpo.word, dpo.size, dpo.against) == ("undecided", "−2.0 [−10.0, +6.0]", "SFT")


def many(count: int, **more: object) -> Results:
    methods = {f"m{i:02}": rated(0.3 + 0.4 * i / count, 0.2, 0.8) for i in range(count)}
    return Results.model_validate({"name": "t", "opponent": "O", "methods": methods, **more})


def test_of_many_methods_the_best_the_worst_and_the_start_stand_before_the_fold() -> None:
    """48, and the one that the others are set beside in the middle of them."""
    r = many(48, start="m20")
    forest = forest_of(r)
    assert forest is not None
    assert [[lane.shown for lane in run] for run in forest.few] == [
        ["m47", "m46", "m45", "m44"],
        ["m20"],
        ["m01", "m00"],
    ]
    page = Page(str(glance(r)))
    assert [tag for tag, _ in page.tags].count("details") == 1
    assert "Show all 48 methods" in page.text
    rows = [attributes for tag, attributes in page.tags if tag == "th" and attributes.get("scope") == "row"]
    assert len(rows) == 7 + 48
    assert len(forest.csv.splitlines()) == 1 + 48
    assert len({attributes["id"] for _, attributes in page.tags if "id" in attributes}) == 2
    # Up to twelve are all shown, and nothing folds.
    twelve = forest_of(many(12))
    assert twelve is not None
    assert (len(twelve.lanes), list(twelve.few)) == (12, [])
    assert "details" not in glance(many(12))


def test_warnings_of_one_kind_are_one_line_and_lose_no_number() -> None:
    r = Results(
        name="t",
        methods={"sft": MethodResult(), "dpo": MethodResult()},
        warnings=[
            "One training seed.",
            "SFT: 20.0 % of its completions were cut at the cap.",
            "DPO: 3 of 120 prompts have no score and are left out.",
            "DPO: 12.5 % of its completions were cut at the cap.",
            "sft, seed 1: 3 of 1,000 prompts have no score and are left out.",
            "One training seed.",
        ],
    )
    assert [(w.who, w.text) for w in grouped_warnings(r)] == [
        ("", "One training seed."),
        ("SFT / DPO", ": 20.0 / 12.5 % of its completions were cut at the cap."),
        ("DPO / sft, seed 1", ": 3 of 120 / 1,000 prompts have no score and are left out."),
    ]


def test_sentences_by_what_they_set_beside() -> None:
    """Real sentences, of methods that answer alike but for their scores."""
    n = 40
    outputs = [make(name, [float(i % 7 < wins) for i in range(n)]) for name, wins in (("base", 1), ("sft", 4))]
    r = study([*outputs, make("dpo", [1.0] * n)], make("other", [0.5] * n))
    groups = grouped_verdict(r)
    assert [group.title for group in groups] == ["Against other", "Against Base", "Against SFT"]
    assert [len(group.sentences) for group in groups] == [3, 2, 1]
    assert [group.open for group in groups] == [False, False, True]
    assert [r.verdict[0], *(s for group in groups for s in group.sentences)] == r.verdict


def test_what_people_say_is_a_group_of_its_own() -> None:
    """Corrected, and of too few labels by these alone."""
    n = 40
    r = study([make("sft", [1.0] * n)], make("other", [0.5] * n))
    r.verdict += [
        "SFT against other, corrected by people: 52.0 % won (95 % interval 40.0 to 64.0, 30 of 40 labelled); the "
        "judge alone says 100.0, which people contradict.",
        "SFT against other, by people's 5 labels alone: 60.0 % won (95 % interval 20.0 to 90.0).",
    ]
    by_people = grouped_verdict(r)[-1]
    assert (by_people.title, by_people.sentences, by_people.open) == ("By people", r.verdict[-2:], True)
