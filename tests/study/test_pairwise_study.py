"""A judge of pairs in a study and in `evaluate`: the opponent answers first, and the pairs are judged once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servers.judge_server import Biases, judging
from study.test_judges import files_with, recipe
from study.test_workers import seed_of
from training.toy import write_model
from trimtab.comparing.run import Asked, compare_sources
from trimtab.data.parsing import parse
from trimtab.evaluation.outputs import read_generations, read_scores
from trimtab.recipe import Recipe
from trimtab.study.evaluate import evaluate_only
from trimtab.study.graph import tasks_of
from trimtab.study.run import run_study

KEY = "test-key-LeAkEd-pairs"
LONGER = Biases(length=1.0)
"""Answers of the sandbox hold no quality, so that all else is a tie."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("pairs") / "model")


def pairwise(url: str) -> dict[str, Any]:
    return {"kind": "pairwise", "model": "judge", "base_url": url, "backoff": 0.01, "api_key_variable": "JUDGE_KEY"}


def longer(folder: Path, against: Path) -> list[float]:
    """By hand, what a judge says that likes length alone."""
    pairs = zip(
        read_generations(folder / "generations.jsonl"), read_generations(against / "generations.jsonl"), strict=True
    )
    sizes = [(len(ours.completion), len(theirs.completion)) for ours, theirs in pairs]
    return [0.5 if ours == theirs else float(ours > theirs) for ours, theirs in sizes]


def test_a_study_judged_in_pairs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    out = tmp_path / "run"
    with judging(LONGER, key=KEY) as server:
        value = recipe(model, judge=pairwise(server.base_url), methods=["base", "sft"], grpo={})
        results = run_study(parse(Recipe, value, "test"), out)
        asked = server.asked.total()
        assert run_study(parse(Recipe, value, "test"), out).methods == results.methods
        assert server.asked.total() == asked, "what was judged is not asked for again"
    places = {name: out / "seed-0" / "evaluation" / name for name in ("base", "sft", "opponent")}
    for name in ("base", "sft"):
        expected = longer(places[name], places["opponent"])
        assert [one.score for one in read_scores(places[name] / "preferences.jsonl")] == expected
        assert results.methods[name].estimates["win_rate"].value == pytest.approx(sum(expected) / len(expected))
    assert not list(out.rglob("scores.jsonl"))
    assert not (places["opponent"] / "preferences.jsonl").exists()
    assert results.judge == "judge, in pairs"
    assert files_with(KEY, tmp_path) == []
    read = compare_sources(Asked([str(out)])).results
    assert {n: m.estimates["win_rate"].value for n, m in read.methods.items()} == {
        n: m.estimates["win_rate"].value for n, m in results.methods.items()
    }


def test_the_opponent_that_is_the_base_has_no_win_rate(model: Path, tmp_path: Path) -> None:
    with judging(LONGER) as server:
        judge = {"kind": "pairwise", "model": "judge", "base_url": server.base_url}
        value = recipe(model, judge=judge, methods=["base", "sft"], grpo={}, opponent=str(model))
        results = run_study(parse(Recipe, value, "test"), tmp_path / "run")
    assert (results.opponent_method, results.methods["base"].value("win_rate")) == ("base", None)
    assert results.judge_card is not None
    assert results.judge_card.pairs == 24
    places = [tmp_path / "run" / "seed-0" / "evaluation" / name for name in ("sft", "base")]
    expected = longer(*places)
    assert results.methods["sft"].estimates["win_rate"].value == pytest.approx(sum(expected) / len(expected))
    read = compare_sources(Asked([str(tmp_path / "run")])).results
    assert read.methods["sft"].estimates["win_rate"].value == results.methods["sft"].estimates["win_rate"].value


def test_evaluate_judges_in_pairs(model: Path, tmp_path: Path, write_jsonl: Any) -> None:
    data = write_jsonl([{"prompt": f"Say {i}", "completion": f"{i}"} for i in range(6)])
    decoding = ["decoding.strategy=greedy", "decoding.max_new_tokens=8"]
    with judging(LONGER) as server:
        judge = f"pairwise:judge@{server.base_url}"
        results = evaluate_only(str(model), str(data), tmp_path / "out", "sandbox:instruct", judge, None, decoding)
    folders = [tmp_path / "out" / "evaluation" / name for name in ("model", "opponent")]
    expected = longer(*folders)
    assert results.methods["model"].estimates["win_rate"].value == pytest.approx(sum(expected) / len(expected))


def test_evaluations_wait_for_the_opponent() -> None:
    judge = {"kind": "pairwise", "model": "judge", "base_url": "http://127.0.0.1:1"}
    tasks = tasks_of([seed_of(recipe(Path("m"), judge=judge, methods=["base", "sft"], grpo={}))])
    assert [(task.stage, task.method, task.after) for task in tasks] == [
        ("sft", "sft", None), (None, "opponent", None), (None, "sft", "opponent"), (None, "base", "opponent"),
    ]  # fmt: skip
    train, opponent, sft, base = tasks
    assert [task.may_begin([]) for task in tasks] == [True, True, False, False]
    assert [task.may_begin([opponent]) for task in tasks] == [True, True, False, True]
    assert [task.may_begin([train]) for task in tasks] == [True, True, False, False]
    assert sft.may_begin([opponent, train])
    assert not sft.may_begin([base, train])
