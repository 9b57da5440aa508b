"""Tasks of one model, with a stand-in for lm-eval that counts: what is kept, asked anew, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.lm_eval_files import results
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.settings import EvaluationSettings, EvaluationTask
from trimtab.readers.columns import Reading
from trimtab.readers.formats import read_source
from trimtab.recipe import Recipe
from trimtab.study.asked import evaluation_settings, recipe_asked, task_settings
from trimtab.tasks import ask, engine, installed
from trimtab.tasks.settings import TaskSettings


class StandIn:
    """Asks nothing, and writes down what it would have asked. Its answers: of 3 documents one is right."""

    asked: list[str] = []  # noqa: RUF012
    data: Path | None = None

    def __init__(self, task: EvaluationTask, settings: TaskSettings) -> None:
        self.model = task.model_hash

    def evaluate(self, name: str) -> Any:
        StandIn.asked.append(f"{self.model}: {name}")
        values = {"acc,none": [1.0, 0.0, 0.0]}
        return results({name: (values, {"acc,none": 1 / 3})}, data=str(StandIn.data))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setattr(engine, "Asked", StandIn)
    monkeypatch.setattr(ask, "version", lambda: "0.4.13")
    StandIn.asked, StandIn.data = [], tmp_path / "questions.jsonl"
    StandIn.data.write_text("{}\n")
    return StandIn.asked


def scores(folder: Path, model: str = "m", replaces: bool = True, **settings: Any) -> MethodOutputs:
    task = EvaluationTask(
        "dpo", model, model, [], [], EvaluationSettings(), DataSettings(train="x"), None, folder, replaces=replaces
    )
    given = {"names": ["one", "two"], "chat_template": False} | settings
    return ask.with_tasks(MethodOutputs("dpo", []), task, TaskSettings(**given))


def test_what_is_there_is_not_asked_again(asked: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "dpo"
    first = scores(folder)
    assert [(s.task, s.metric, s.number) for s in first.tasks] == [("one", "acc", 1 / 3), ("two", "acc", 1 / 3)]
    again = scores(folder, metrics={"one": "acc"}, run_code=True)
    assert [s.documents for s in again.tasks] == [s.documents for s in first.tasks]
    assert asked == ["m: one", "m: two"]
    # A run that was killed after one of them goes on with the other; a task more is asked alone.
    (folder / "tasks" / "two" / "inputs.json").unlink()
    assert len(scores(folder, names=["one", "two", "three"]).tasks) == 3
    assert asked[2:] == ["m: two", "m: three"]


@pytest.mark.parametrize(
    "change", [{"limit": 2}, {"num_fewshot": 0}, {"chat_template": True}, {"max_new_tokens": 5}, {"model": "n"}]
)
def test_another_question_is_asked_anew_or_refused(
    asked: list[str], tmp_path: Path, change: dict[str, Any]
) -> None:
    scores(tmp_path / "dpo", names=["one"])
    with pytest.raises(TrimtabError, match=r"tasks/one: was asked otherwise .*--overwrite"):
        scores(tmp_path / "dpo", names=["one"], replaces=False, **change)
    scores(tmp_path / "dpo", names=["one"], **change)
    assert len(asked) == 2


def test_changed_task_files_and_data_are_asked_anew(asked: list[str], tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "__pycache__").mkdir(parents=True)
    (files / "one.yaml").write_text("task: one\n")
    of = {"names": ["one"], "include_path": str(files)}
    scores(tmp_path / "dpo", **of)
    (files / "__pycache__" / "utils.pyc").write_text("left by Python")
    scores(tmp_path / "dpo", **of)
    assert len(asked) == 1
    (files / "one.yaml").write_text("task: one\nnum_fewshot: 3\n")
    scores(tmp_path / "dpo", **of)
    assert len(asked) == 2
    assert StandIn.data is not None
    StandIn.data.write_text('{"question": "another"}\n')
    scores(tmp_path / "dpo", **of)
    assert len(asked) == 3
    StandIn.data.unlink()
    scores(tmp_path / "dpo", **of)
    assert len(asked) == 3


def test_compare_reads_the_samples(asked: list[str], tmp_path: Path) -> None:
    scores(tmp_path / "dpo", names=["one"])
    file = tmp_path / "dpo" / "tasks" / "one" / "samples_one.jsonl.gz"
    [method] = read_source(str(file), Reading({}, None))
    assert [(row.prompt, row.side.score) for row in method.rows] == [("one 0", 1.0), ("one 1", 0.0), ("one 2", 0.0)]


def test_damaged_samples_are_asked_anew(asked: list[str], tmp_path: Path) -> None:
    scores(tmp_path / "dpo", names=["one"])
    (tmp_path / "dpo" / "tasks" / "one" / "samples_one.jsonl.gz").write_bytes(b"")
    assert scores(tmp_path / "dpo", names=["one"]).tasks[0].values is not None
    assert len(asked) == 2


def recipe(tmp_path: Path, **more: Any) -> Path:
    value = {"name": "t", "model": "sandbox:base", "methods": ["base"], "sandbox": {"test_rows": 8}} | more
    (tmp_path / "t.yaml").write_text(json.dumps(value))
    return tmp_path / "t.yaml"


def test_missing_lm_eval_is_told_with_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrimtabError, match=r"tasks: they need lm-eval.*pip install 'trimtab\[lm-eval\]'\.$"):
        recipe_asked(recipe(tmp_path, tasks=["gsm8k"]), None, ())
    assert recipe_asked(recipe(tmp_path), None, ()).tasks is None


def test_a_list_of_names_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda: "0.4.13")
    read = recipe_asked(recipe(tmp_path, tasks=["gsm8k", "ifeval"]), None, ())
    assert read.tasks == TaskSettings(names=["gsm8k", "ifeval"])
    assert Recipe.model_validate(read.model_dump()).tasks == read.tasks
    wrong = "tasks.include_path nowhere: no such folder"
    with pytest.raises(TrimtabError, match=wrong):
        recipe_asked(recipe(tmp_path, tasks={"names": ["a"], "include_path": "nowhere"}), None, ())


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"names": []}, "tasks.names: List should have at least 1 item"),
        (["a", "a"], "tasks.names: 'a' is there twice"),
        (["../a"], r"tasks.names.0: String should match pattern"),
        ({"names": ["a"], "fewshot": 1}, "unknown setting 'tasks.fewshot'"),
    ],
)
def test_wrong_settings_are_told(value: Any, wrong: str) -> None:
    with pytest.raises(TrimtabError, match=wrong):
        task_settings({"tasks": value})


def test_evaluate_takes_tasks_and_generate_does_not() -> None:
    evaluation_settings("evaluate", "x.jsonl", {"tasks": ["gsm8k"]})
    with pytest.raises(TrimtabError, match="unknown setting 'tasks'"):
        evaluation_settings("generate", "x.jsonl", {"tasks": ["gsm8k"]})


def test_a_template_is_asked_for_once_and_for_all(
    make_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, chat = str(tmp_path / "plain"), str(tmp_path / "chat")
    make_tokenizer(template=None).save_pretrained(plain)
    make_tokenizer().save_pretrained(chat)
    settings = TaskSettings(names=["a"])
    assert ask.with_template(settings, plain, EvaluationSettings()).chat_template is False
    resolved = ask.with_template(settings, chat, EvaluationSettings())
    assert resolved.chat_template is True
    assert ask.with_template(TaskSettings(names=["a"], chat_template=False), chat, EvaluationSettings()) == (
        TaskSettings(names=["a"], chat_template=False)
    )
    monkeypatch.setattr(installed, "version", lambda: "0.4.13")
    with pytest.raises(TrimtabError, match="the opponent's tokenizer has no chat template: set tasks"):
        ask.check(resolved, tmp_path, {"the opponent": plain}, EvaluationSettings())
