"""Self-preference as a number: by hand beside a second judge, and one of known size that a server has planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.outputs_of import make
from servers.judge_server import Biases, judging
from trimtab.comparing.run import Asked, compare_sources
from trimtab.evaluation.judge_card import STUDY_MODELS, THE_OPPONENT, SelfPreference
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Results, SecondJudge
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.report.tables import all_tables

N = 40


def outputs(name: str, scores: Sequence[float], second: Sequence[float]) -> MethodOutputs:
    made = make(name, scores)
    return replace(made, second_scores={"other": make(name, second).scores})


def study(relatives: Sequence[str], *methods: MethodOutputs) -> Results:
    opponent = outputs("them", [0.0] * N, [0.0] * N)
    about = About(
        "t", judge="qwen", relatives=relatives, second_judges=[SecondJudge(name="other", judge="another")]
    )
    return summarise(StudyOutputs({0: methods}, (), opponent), about)


def own(results: Results) -> list[SelfPreference]:
    assert results.judge_card is not None
    return results.judge_card.self_preference


def won(count: int) -> list[float]:
    return [1.0] * count + [-1.0] * (N - count)


def test_by_hand_beside_a_second_judge() -> None:
    """The judge has qwen win 30 of 40, the other 20; both have llama win 10."""
    qwen, llama = outputs("qwen", won(30), won(20)), outputs("llama", won(10), won(10))
    r = study(["qwen"], qwen, llama)
    [found] = own(r)
    assert (found.own, found.by, found.judge, found.other) == ("qwen", "other", 0.75, 0.5)
    assert found.excess.value == pytest.approx(0.25)
    assert found.excess.n == N
    low, high = found.excess.ci95 or (1, 0)
    assert 0 < low < 0.25 < high
    assert any(line.startswith("The judge gives qwen, of its own family, 25.0 points of") for line in r.warnings)
    table = all_tables(r)["self_preference"]
    assert table.rows[0][:4] == ["qwen", "other", "75.0", "50.0"]
    assert table.records[0]["excess"] == pytest.approx(0.25)
    assert Results.model_validate_json(r.to_json()) == r
    # Who is not of the family has no row, and without anybody else nothing is known.
    assert own(study([], qwen, llama)) == []
    about = About("t", judge="qwen", relatives=["qwen"])
    alone = summarise(StudyOutputs({0: [qwen]}, (), outputs("them", [0.0] * N, [0.0] * N)), about)
    assert own(alone) == []
    assert "self_preference" not in all_tables(alone)


def test_the_opponents_answers_and_a_whole_study_of_the_family() -> None:
    """The opponent wins what the methods lose: 10 and 30 of 40 by the judge, 20 and 30 by the other."""
    sft, dpo = outputs("sft", won(30), won(20)), outputs("dpo", won(10), won(10))
    [found] = own(study([THE_OPPONENT], sft, dpo))
    assert (found.own, found.judge, found.other) == ("them", 0.5, 0.625)
    assert found.excess.value == pytest.approx(-0.125)
    assert [(one.own, one.excess.value) for one in own(study([STUDY_MODELS], sft, dpo))] == [
        ("sft", pytest.approx(0.25)), ("dpo", 0.0),
    ]  # fmt: skip
    assert own(study([STUDY_MODELS, THE_OPPONENT], sft, dpo)) == []  # both sides are of the family


def test_prompts_that_one_of_both_lacks_are_left_out() -> None:
    qwen = outputs("qwen", won(30), won(20))
    for place in (0, 39):
        qwen.second_scores["other"][place].score = None
    qwen.scores[1].score = None
    [found] = own(study(["qwen"], qwen))
    assert found.excess.n == N - 3
    assert (found.judge, found.other) == (pytest.approx(28 / 37), pytest.approx(18 / 37))


def lines(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("planted", [0.0, 0.4])
def test_a_planted_one_is_found_beside_people(planted: float, tmp_path: Path) -> None:
    """The better answer wins, but in a share of pairs the judge takes its own. People always see the better one. Of
    a share p it adds p times what its own would have lost."""
    draws, count = np.random.default_rng(5), 160
    first, second = draws.normal(size=count), draws.normal(0.3, size=count)
    llama = [{"id": str(i), "prompt": f"Q{i}", "completion": f"x quality {q:.3f}"} for i, q in enumerate(first)]
    qwen = [
        {"id": str(i), "prompt": f"Q{i}", "completion": f"own words quality {q:.3f}"} for i, q in enumerate(second)
    ]
    better = second > first
    votes = [
        {"id": str(i), "method": "qwen", "opponent": "llama", "winner": "qwen" if better[i] else "llama"}
        for i in range(count)
    ]
    sources = [f"llama={lines(tmp_path / 'a.jsonl', llama)}", f"qwen={lines(tmp_path / 'b.jsonl', qwen)}"]
    labels = Path(lines(tmp_path / "votes.jsonl", votes))
    with judging(Biases(own=planted)) as server:
        asked = Asked(sources, judge=f"pairwise:qwen2.5-7b@{server.base_url}", probes=0, labels=labels)
        results = compare_sources(asked).results
    [found] = own(results)
    assert (found.own, found.by, found.other) == ("qwen", "people", pytest.approx(better.mean()))
    low, high = found.excess.ci95 or (1, 0)
    assert low <= planted * (1 - better.mean()) <= high
    assert any("of its own family" in line and "people do" in line for line in results.warnings) == (planted > 0)
