"""A method that is the opponent itself has no win rate, and nothing that is said of one: not in tables, plot, card,
corrections or sentences. The others are compared with it as ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.outputs_of import in_own_words, make, study
from trimtab.evaluation.results import Results
from trimtab.report.card import results_section
from trimtab.report.figures import all_figures
from trimtab.report.glance import forest_of, glance
from trimtab.report.grouping import grouped_verdict
from trimtab.report.layout import entries
from trimtab.report.table_files import to_csv, to_tex
from trimtab.report.tables import all_tables

N = 20


def against(**wins: int) -> Results:
    """Methods that win so many of 20 prompts against a base that is the opponent; the others are lost."""
    base = make("base", [0.0] * N)
    base.is_opponent = True
    methods = [base, *(make(name, [1.0] * won + [-1.0] * (N - won)) for name, won in wins.items())]
    return study(methods, replace(base, name="some/model"))


def test_it_has_no_win_rate_and_no_part_in_what_is_said_of_them() -> None:
    r = against(sft=18, dpo=10)
    base = r.methods["base"]
    assert r.opponent_method == "base"
    assert not [name for name in base.estimates if "win_rate" in name]
    assert base.win_counts is base.length_effect is None
    assert base.value("judge_score") == 0
    assert r.opponent_result is not None
    assert "win_rate" not in r.opponent_result.estimates
    assert r.judge_card is not None
    assert r.judge_card.pairs == 2 * N  # of three methods two are judged
    assert set(r.judge_card.nulls) == {"sft", "dpo"}
    assert [line for line in r.verdict if line.startswith("Base")] == [
        "Base is the opponent itself, which the others' win rates are against."
    ]
    assert not [line for line in r.warnings if line.startswith("Base")]
    assert list(r.lengths) == ["base", "sft", "dpo"]
    assert [list(sample.completions) for sample in r.samples] == [["base", "sft", "dpo"]] * len(r.samples)


@pytest.mark.parametrize("won", range(10, N + 1))
def test_a_claim_against_it_is_one_claim(won: int) -> None:
    """Three pairs, corrected together: the claim against the opponent is that of the pair."""
    r = against(sft=won, dpo=4)
    for name in ("sft", "dpo"):
        [pair] = [c for c in r.comparisons if (c.a, c.b, c.metric) == (name, "base", "win_rate")]
        counts, rate = r.methods[name].win_counts, r.methods[name].estimates["win_rate"]
        assert counts is not None
        assert pair.difference == pytest.approx(rate.value - 0.5)
        assert (counts.p_value, counts.p_holm) == (pair.p_value, pair.p_holm)
    assert sum(c.metric == "win_rate" for c in r.comparisons) == 3


def test_the_best_of_all_may_be_the_opponent() -> None:
    assert against(sft=1, dpo=2).verdict[0] == (
        "No method has won more than half against Base, the opponent, and all are clearly behind it."
    )
    assert against(sft=10, dpo=1).verdict[0].endswith("do not clearly separate it from Base.")
    assert against(sft=N, dpo=1).verdict[0].startswith("SFT has the highest win rate, 100.0 %, clearly above")


def test_of_many_equals_four_are_named() -> None:
    """Six methods that win alike: the best and five more; seven: the best, four, and two that are counted."""
    names = [f"m{i}" for i in range(7)]
    few, many = (study([make(name, [1.0, -1.0] * 10) for name in names[:n]], make("o", [0.0] * N)) for n in (6, 7))
    assert few.verdict[0].endswith("separate it from m1, m2, m3, m4 and m5.")
    assert many.verdict[0].endswith("separate it from m1, m2, m3, m4 and 2 others.")


def test_tables_and_files_have_a_dash_and_say_who_it_is() -> None:
    r = against(sft=18, dpo=10)
    assert [shown for _, shown, _ in entries(r)] == ["Base (opponent)", "SFT", "DPO"]
    methods = all_tables(r)["methods"]
    assert methods.rows[0][:3] == ["Base (opponent)", "–", "–"]
    assert to_csv(methods.records).splitlines()[1].startswith("base,,,,,,,")
    assert "Base (opponent) & – " in to_tex(methods).replace("--", "–")
    assert [row[0] for row in all_tables(r)["win_rates"].rows] == ["SFT", "DPO"]
    assert [row["method"] for row in all_figures(r)["win_rates"].records] == ["sft", "dpo"]
    assert [row["method"] for row in all_figures(r)["judge_scores"].records] == ["Base (opponent)", "SFT", "DPO"]
    assert "Base (opponent)" in results_section(r, "sft")
    assert grouped_verdict(r)[0].title == "Against some/model"
    assert grouped_verdict(r)[0].sentences[0].startswith("Base is the opponent itself")
    assert Results.model_validate_json(r.to_json()) == r


def test_the_plot_has_a_lane_without_a_point() -> None:
    r = against(sft=18, dpo=10)
    forest = forest_of(r)
    assert forest is not None
    assert [(lane.shown, lane.place is None) for lane in forest.lanes] == [
        ("SFT", False), ("DPO", False), ("Base (opponent)", True),
    ]  # fmt: skip
    assert glance(r).count('class="dot"') == 2
    change = forest.lanes[0].change
    assert change is not None
    assert (change.word, change.against) == ("helped", "Base")


def test_alone_there_is_nothing_to_compare() -> None:
    r = against()
    assert r.verdict == ["Base is the opponent itself, which the others' win rates are against."]
    assert r.judge_card is None


def test_how_hard_prompts_are_is_not_told_by_its_ties() -> None:
    """Difficulty takes three other methods, and a method that ties with itself says nothing of a prompt."""
    scores = {name: [float((i * k) % 3) for i in range(N)] for name, k in (("a", 1), ("b", 2), ("c", 4), ("d", 5))}
    base = make("base", [1.0] * N)
    base.is_opponent = True
    others = [in_own_words(make(name, scores[name])) for name in "abcd"]
    three = study([base, *others[:3]], replace(base, name="m"))
    four = study([base, *others], replace(base, name="m"))

    def told_by(r: Results) -> set[str]:
        return {m.length_effect.difficulty for name, m in r.methods.items() if name != "base" and m.length_effect}

    assert (told_by(three), told_by(four)) == ({"none"}, {"others"})
