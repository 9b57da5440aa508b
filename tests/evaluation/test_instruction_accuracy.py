"""IFEval's four accuracies by hand, their intervals beside a bootstrap of the ratio, and where they are shown."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evaluation.outputs_of import make
from trimtab.data.records import Record
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.instruction_accuracy import asked_of, instruction_level, prompt_level
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Results
from trimtab.evaluation.statistics import bootstrap_interval
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.instructions.checks import Instruction
from trimtab.report.render import write_report

COMMA, QUOTED, TITLE = "punctuation:no_comma", "startend:quotation", "detectable_format:title"
ASKED = [[COMMA], [COMMA, QUOTED, TITLE], [], [COMMA, QUOTED]]
RESULTS = {
    "base": ["a, b", "a, b", "a, b", '"a, b"'],
    "sft": ["a b", '*"<<a, b>>"*', "a", "a, b"],
    "rival": ["a b", '"<<a>> b"', "a", '"a b"'],
}
"""Of 1, 3, 0 and 2 instructions base holds 0, 0 and 1; sft 1, 1 (loosely 2) and 0; the rival all of them."""


def asked(kinds: Sequence[Sequence[str]]) -> list[tuple[Instruction, ...]]:
    found, unchecked = asked_of([Record("p", (), columns={"instruction_id_list": list(of)}) for of in kinds])
    assert unchecked is None
    return found


def answering(name: str, texts: Sequence[str]) -> MethodOutputs:
    outputs = make(name, [None] * len(texts))
    outputs.scores = []
    for generation, text in zip(outputs.generations, texts, strict=True):
        generation.completion = text
    return outputs


@pytest.fixture(scope="module")
def results() -> Results:
    base, sft, rival = (answering(name, texts) for name, texts in RESULTS.items())
    return summarise(StudyOutputs({0: [sft]}, [base], rival, asked=asked(ASKED)), About("t"))


def test_four_accuracies_by_hand(results: Results) -> None:
    names = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
    found = {name: [m.value(of) for of in names] for name, m in results.methods.items()}
    assert found["base"] == pytest.approx([0, 1 / 6, 0, 1 / 6])
    assert found["sft"] == pytest.approx([1 / 3, 2 / 6, 1 / 3, 3 / 6])
    assert results.opponent_result is not None
    assert [results.opponent_result.value(of) for of in names] == [1.0] * 4
    estimate = results.opponent_result.estimates["prompt_level_strict_acc"]
    assert estimate.n == 3
    # Wilson's of 3 of 3: a bootstrap would be certain.
    assert estimate.ci95 == pytest.approx((3 / (3 + 1.959964**2), 1.0), abs=1e-6)


def test_methods_base_and_opponent_are_compared_over_prompts(results: Results) -> None:
    pairs = {(c.a, c.b): c for c in results.comparisons if c.metric == "inst_level_strict_acc"}
    assert {pair: c.difference for pair, c in pairs.items()} == pytest.approx(
        {("base", "rival"): -5 / 6, ("sft", "rival"): -4 / 6, ("sft", "base"): 1 / 6}
    )
    assert all(c.n == 3 and c.p_holm is not None for c in pairs.values())
    assert {c.b for c in results.comparisons if c.metric == "length"} == {"base"}, "other metrics as ever"


def test_a_base_that_is_the_opponent_is_compared_once() -> None:
    base, sft, same = (
        answering(name, RESULTS[of]) for name, of in (("base", "base"), ("sft", "sft"), ("it", "base"))
    )
    base.is_opponent = True
    found = summarise(StudyOutputs({0: [sft]}, [base], same, asked=asked(ASKED)), About("t"))
    [pair] = [c for c in found.comparisons if c.metric == "inst_level_strict_acc"]
    assert (pair.a, pair.b, pair.difference) == ("sft", "base", pytest.approx(1 / 6))
    assert pair.p_holm == pair.p_value


def test_each_kind_has_its_share(results: Results) -> None:
    kinds = results.methods["sft"].instructions
    assert {name: (kind.n, kind.strict.value, kind.loose.value) for name, kind in kinds.items()} == {
        TITLE: (1, 1.0, 1.0), COMMA: (3, pytest.approx(1 / 3), pytest.approx(1 / 3)), QUOTED: (2, 0.0, 0.5),
    }  # fmt: skip
    low, high = kinds[QUOTED].strict.ci95 or (1, 0)
    assert low == 0 < high < 1, "none of two is not certainly none"
    assert Results.model_validate_json(results.to_json()) == results
    old = json.loads(results.to_json())
    for method in old["methods"].values():
        del method["instructions"]
    assert Results.model_validate(old).methods["sft"].instructions == {}


def test_the_verdict_without_a_judge_is_of_the_prompts(results: Results) -> None:
    assert any("points of prompt-level accuracy (strict)" in line for line in results.verdict), results.verdict


def test_the_report_shows_them(results: Results, tmp_path: Path) -> None:
    page = write_report(results, tmp_path).read_text()
    assert '<section id="instructions"' in page
    with (tmp_path / "tables" / "instruction_kinds.csv").open(newline="") as file:
        rows = {(row["method"], row["instruction"]): row for row in csv.DictReader(file)}
    assert len(rows) == 9
    assert (rows["sft", QUOTED]["n"], rows["sft", QUOTED]["strict"], rows["sft", QUOTED]["loose"]) == (
        "2",
        "0.0",
        "0.5",
    )
    assert "strict_ci95_low" in rows["sft", QUOTED]
    with (tmp_path / "tables" / "instructions.csv").open(newline="") as file:
        by_method = {row["method"]: row for row in csv.DictReader(file)}
    assert float(by_method["sft"]["inst_level_loose_acc"]) == 0.5


def test_the_ratios_interval_is_a_cluster_bootstraps() -> None:
    """200 prompts of one to three instructions, of which nearly all hold."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 4, 200)
    held = rng.binomial(sizes, 0.95)
    kinds = [[COMMA, TITLE, QUOTED][:size] for size in sizes]
    texts = [("", "a", "<<a>>", '"<<a>>"')[n] if n else "," for n in held]
    answers = Answers(answering("m", texts), asked=asked(kinds))
    parts = instruction_level("strict")(answers)
    assert parts is not None
    assert parts.mean() == pytest.approx(held.sum() / sizes.sum())
    places = rng.integers(0, 200, (10_000, 200))
    ratios = held[places].sum(axis=1) / sizes[places].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    found = bootstrap_interval(parts)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    # A sum of held ones over a fixed number of instructions is surer where prompts have as many.
    naive = bootstrap_interval(held / sizes.mean())
    assert abs(naive.low - low) > 0.01


def test_prompts_without_instructions_have_none() -> None:
    outputs = answering("m", ["a", "b"])
    assert prompt_level("strict")(Answers(outputs)) is None
    plain = [Record("p", ()), Record("q", (), columns={"key": 1})]
    assert asked_of(plain) == ([], None)
    unknown = [Record("p", (), columns={"instruction_id_list": ["count:words"]})]
    found, why = asked_of(unknown)
    assert (found, why and why[:60]) == ([], "the test prompts' instructions are not checked: column 'inst")
