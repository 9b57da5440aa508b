"""What an evaluation warns of stays with its folder, and a folder is of one evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from study.same_results import but_for_the_date
from trimtab.comparing.labelled import report_labelled
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import read_generations
from trimtab.evaluation.results import Results
from trimtab.evaluation.settings import Decoding, EvaluationSettings, EvaluationTask
from trimtab.rewards.base import Reward, Scored
from trimtab.study.evaluate import RowRange, evaluate_only, generate_only

ROWS = [{"prompt": f"Name {i}", "chosen": f"It is {i}.", "rejected": "No."} for i in range(3)]
FEW = ["decoding.max_new_tokens=2", "decoding.strategy=greedy"]


@pytest.fixture
def model(tiny_model_dir: Callable[..., Path]) -> str:
    return str(tiny_model_dir())


@pytest.fixture
def constant(tmp_path: Path) -> str:
    (tmp_path / "same.py").write_text("def same(completions):\n    return [1.0] * len(completions)\n")
    return f"{tmp_path / 'same.py'}:same"


class Judging(Reward):
    """Gives these scores; None: no answer."""

    name, signature = "judging", "judging|1"

    def __init__(self, *scores: float | None) -> None:
        self.scores = scores

    def scored(self, prompts: Any, completions: Any, **_: Any) -> list[Scored]:
        return [Scored(score, None if score is not None else "no answer") for score in self.scores]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.5, 0.5, 0.5), ["all 3 scores are 0.5: they tell no completion from another"]),
        ((None, None, None), ["3 of 3 completions have no score (3 × no answer)"]),
        (
            (2.0, None, 2.0),
            [
                "1 of 3 completions have no score (1 × no answer)",
                "all 2 scores are 2: they tell no completion from another",
            ],
        ),
        ((1.0, 2.0, 1.0), []),
    ],
)
def test_scores_that_say_nothing_are_told(
    scores: Sequence[float | None],
    expected: list[str],
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """When they are given; kept when the evaluation is read back, without another word."""
    records = [Record(row["prompt"], (row["chosen"],)) for row in ROWS]
    settings = EvaluationSettings(decoding=Decoding(strategy="greedy", max_new_tokens=2))

    def run() -> list[str]:
        data, judge = DataSettings(train="unused"), Judging(*scores)
        found = measure(
            EvaluationTask("sft", model, "hash", records, [], settings, data, judge, tmp_path / "e")
        ).warnings
        return [line for line in found if not line.startswith("tokenizer ")]

    assert run() == expected
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "warning" in line and ": tokenizer " not in line] == [
        f"warning: evaluation of sft: {one}" for one in expected
    ]
    assert run() == expected
    assert "warning" not in capsys.readouterr().err


def test_an_evaluation_that_is_run_again_gives_the_same_results(
    model: str, constant: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    data, out = str(write_jsonl(ROWS)), tmp_path / "e"

    def run() -> Results:
        return evaluate_only(model, data, out, model, constant, None, FEW)

    first = run()
    assert [line for line in first.warnings if line.startswith("evaluation of ")] == [
        f"evaluation of {name}: all 3 scores are 1: they tell no completion from another"
        for name in ("model", first.opponent)
    ]
    assert first.opponent_method == "model"  # the same weights, and the same answers
    assert first.verdict == ["model is the opponent itself, which the others' win rates are against."]
    # What was asked lies beside the answers; of an earlier version it comes without anything being made anew.
    kept = {file: file.read_bytes() for file in out.glob("evaluation/*/*") if file.is_file()}
    asked = out / "evaluation" / "model" / "asked.jsonl"
    assert json.loads(asked.read_text().splitlines()[0])["columns"] == {"chosen": "It is 0.", "rejected": "No."}
    asked.unlink()
    assert but_for_the_date(run()) == but_for_the_date(first)
    assert {file: file.read_bytes() for file in kept} == kept
    # What the disk did is said, and changes no result.
    with (out / "evaluation" / "model" / "scores.jsonl").open("a") as scores:
        scores.write("\n")
    assert but_for_the_date(run()) == but_for_the_date(first)


def test_a_folder_is_of_one_evaluation(
    model: str, constant: str, write_jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other rows or decoding are refused, and what is there stays. Another judge scores the same completions."""
    data, out = str(write_jsonl(ROWS)), tmp_path / "e"
    evaluate_only(model, data, out, None, None, None, FEW)
    before = (out / "results.json").read_bytes()
    for sets, part, what in (
        (FEW, RowRange(2), "rows"),
        ([*FEW, "decoding.max_new_tokens=3"], RowRange(), "decoding"),
    ):
        with pytest.raises(TrimtabError, match=rf"holds another evaluation \(its {what} differ\). Choose another"):
            evaluate_only(model, data, out, None, None, None, sets, part)
    assert (out / "results.json").read_bytes() == before
    # What changes no result is no other evaluation.
    evaluate_only(model, data, out, None, None, None, [*FEW, "token_budget=64"])
    evaluate_only(model, data, out, model, constant, None, FEW)
    assert "judged otherwise" not in capsys.readouterr().err
    (tmp_path / "same.py").write_text("def same(completions):\n    return [2.0] * len(completions)\n")
    evaluate_only(model, data, out, model, constant, None, FEW)
    assert capsys.readouterr().err.count("was judged otherwise before") == 2, "the model's and the opponent's"


def test_labels_come_when_the_answers_are_there(
    model: str, constant: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """The same evaluation again, with a file of votes by the prompt's text: nothing is generated or judged anew."""
    data, out = str(write_jsonl(ROWS)), tmp_path / "e"
    assert evaluate_only(model, data, out, model, constant, None, FEW).people is None
    answers = out / "evaluation" / "model" / "generations.jsonl"
    before = answers.stat().st_mtime_ns
    votes = [{"prompt": g.prompt, "completion": g.completion, "winner": "model"} for g in read_generations(answers)]
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    report_labelled(out, file)
    from_folder = Results.read(out / "results.json")
    results = evaluate_only(model, data, out, model, constant, None, [*FEW, f"labels={file}"])
    assert results.people is not None
    assert (from_folder.people, from_folder.verdict) == (results.people, results.verdict)
    settings = [{s.name: s for s in found.provenance.settings} for found in (from_folder, results)]
    assert settings[0] == settings[1]
    [number] = results.people.numbers
    assert (results.people.votes, number.a, number.labels.value) == (3, "model", 1)
    assert answers.stat().st_mtime_ns == before
    with pytest.raises(TrimtabError, match=r"gone.csv: no such file. Give people's labels"):
        evaluate_only(model, data, out, model, constant, None, [*FEW, "labels=gone.csv"])


def test_completions_of_other_rows_are_not_overwritten(
    model: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    data = str(write_jsonl(ROWS))
    file = generate_only(model, data, tmp_path / "g", None, FEW)
    before = file.read_bytes()
    with pytest.raises(TrimtabError, match=r"holds another evaluation \(its rows differ"):
        generate_only(model, data, tmp_path / "g", None, FEW, RowRange(1))
    assert file.read_bytes() == before
    assert generate_only(model, data, tmp_path / "g", None, FEW) == file


@pytest.mark.parametrize("file", ["recipe.yaml", "stage.json"])
def test_a_study_or_a_stage_is_no_place_for_an_evaluation(
    file: str, model: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / file).write_text(json.dumps({}))
    for command in (
        lambda: evaluate_only(model, str(write_jsonl(ROWS)), out, None, None, None, FEW),
        lambda: generate_only(model, str(write_jsonl(ROWS)), out, None, FEW),
    ):
        with pytest.raises(TrimtabError, match="is the folder of a"):
            command()
    assert [p.name for p in out.iterdir()] == [file]


def test_control_tokens_are_read_as_in_training(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    best = str(tiny_model_dir("best"))
    (Path(best).parent / "stage.json").write_text(json.dumps({"data": {"control_tokens": "token"}}))
    told = []
    for out, sets in (("as_text", FEW), ("as_tokens", [*FEW, "data.control_tokens=token"])):
        told.append(evaluate_only(best, str(write_jsonl(ROWS)), tmp_path / out, None, None, None, sets).warnings)
    line = "evaluation of model: trained with control_tokens token, evaluated with text; set data.control_tokens to"
    assert [any(one.startswith(line) for one in lines) for lines in told] == [True, False]
