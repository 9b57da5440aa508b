"""lm-eval itself on task files of our own: its numbers, its log-likelihoods, and a study with tasks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trimtab.data.chat import load_tokenizer
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Results
from trimtab.evaluation.settings import EvaluationSettings, EvaluationTask
from trimtab.models.lora import hash_model
from trimtab.recipe import Recipe
from trimtab.study.evaluate import evaluate_only
from trimtab.study.run import run_study
from trimtab.tasks import ask, engine
from trimtab.tasks.settings import TaskSettings

pytestmark = pytest.mark.lm_eval
WORDS = ("cat", "dog", "mat", "sun", "sea", "tea")

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
NUMBER = """
task: our_number
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
output_type: generate_until
training_split: train
test_split: test
num_fewshot: 2
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - {{name: first-word, filter: [{{function: regex, regex_pattern: "([a-z]+)"}}, {{function: take_first}}]}}
  - {{name: whole, filter: [{{function: take_first}}]}}
metadata: {{version: 2.0}}
"""
GROUP = """
group: our_group
task: [our_choice, our_second]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: false}
metadata: {version: 3.0}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two tasks by likelihood, the group of them, and one by generation; each with questions of its own."""
    folder = tmp_path / "files"
    folder.mkdir()

    def rows(name: str, count: int, of: Callable[[int], dict[str, Any]]) -> Path:
        (folder / name).write_text("".join(json.dumps(of(i)) + "\n" for i in range(count)))
        return folder / name

    def choice(shift: int) -> Callable[[int], dict[str, Any]]:
        return lambda i: {
            "question": f"The {WORDS[i % 6]} sat on mat {i}. Where?",
            "choices": [f"the {WORDS[(i + j * shift) % 6]}" for j in range(3)],
            "answer": i % 3,
        }

    first, second = rows("first.jsonl", 12, choice(1)), rows("second.jsonl", 6, choice(2))
    number = rows("number.jsonl", 10, lambda i: {"question": f"after {i} the", "answer": WORDS[i % 6]})
    (folder / "first.yaml").write_text(CHOICE.format(name="our_choice", data=first))
    (folder / "second.yaml").write_text(CHOICE.format(name="our_second", data=second))
    (folder / "number.yaml").write_text(NUMBER.format(data=number))
    (folder / "group.yaml").write_text(GROUP)
    return folder


def asked(files: Path, model: Path, folder: Path, **settings: Any) -> MethodOutputs:
    task = EvaluationTask(
        "model", str(model), hash_model(str(model)), [], [], EvaluationSettings(precision="float32"),
        DataSettings(train="x"), None, folder,
    )  # fmt: skip
    given = {"include_path": str(files), "chat_template": False} | settings
    return ask.with_tasks(MethodOutputs("model", []), task, TaskSettings(**given))


def samples(folder: Path, task: str, leaf: str = "") -> list[dict[str, Any]]:
    with gzip.open(folder / "tasks" / task / f"samples_{leaf or task}.jsonl.gz", "rt") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize("chat", [False, True])
def test_numbers_are_those_of_simple_evaluate(files: Path, tiny_model_dir: Any, tmp_path: Path, chat: bool) -> None:
    """On the same folder, read by lm-eval alone: every number, every sample's answers, for all kinds of tasks."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    model, names = tiny_model_dir(), ["our_group", "our_number"]
    tokenizer = load_tokenizer(str(model))
    settings = {"names": names, "limit": 5, "chat_template": chat, "batch_size": 2}
    scores = asked(files, model, tmp_path / "ours", **settings).tasks
    theirs = simple_evaluate(
        model="hf", model_args={"pretrained": str(model), "dtype": "float32", "tokenizer": tokenizer}, tasks=names,
        limit=5, device="cpu", batch_size=2, apply_chat_template=chat, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(files), include_defaults=False),
    )  # fmt: skip
    assert theirs is not None
    expected = theirs["results"] | theirs["groups"]
    assert {(s.task, s.metric) for s in scores} == {
        ("our_group", "acc"), ("our_choice", "acc"), ("our_choice", "acc_norm"), ("our_second", "acc"),
        ("our_second", "acc_norm"), ("our_number", "exact_match, first-word"), ("our_number", "exact_match, whole"),
    }  # fmt: skip
    for score in scores:
        metric, _, name = score.metric.partition(", ")
        assert score.number == expected[score.task][f"{metric},{name or 'none'}"]
        assert score.values is not None
        assert score.values.mean() == pytest.approx(score.number)
    for asked_for, leaf in (("our_group", "our_choice"), ("our_group", "our_second"), ("our_number", "our_number")):
        own, other = samples(tmp_path / "ours", asked_for, leaf), theirs["samples"][leaf]
        assert [row["prompt_hash"] for row in own] == [row["prompt_hash"] for row in other]
        if leaf == "our_number":
            assert [row["resps"] for row in own] == [row["resps"] for row in other]
        else:
            likelihoods = [[answer[0][0] for answer in row["resps"]] for row in own]
            assert likelihoods == [[pytest.approx(a[0][0], abs=1e-4) for a in row["resps"]] for row in other]
    assert [s.shots for s in scores if s.task == "our_number"] == [2, 2]


def test_likelihoods_are_the_models(files: Path, tiny_model_dir: Any, tmp_path: Path) -> None:
    """Σ log p of a choice's tokens after its question, by transformers, one row at a time."""
    folder = tiny_model_dir()
    [acc, _] = asked(files, folder, tmp_path / "m", names=["our_choice"]).tasks
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(str(folder))
    assert acc.values is not None
    for row, right in zip(samples(tmp_path / "m", "our_choice"), acc.values, strict=True):
        by_hand = []
        for (question, choice), _ in zip(row["arguments"], row["resps"], strict=True):
            ids = tokenizer(question + choice, return_tensors="pt").input_ids
            asked_for = len(tokenizer(question).input_ids)
            with torch.no_grad():
                logps = model(ids).logits[0].log_softmax(-1)
            by_hand.append(float(sum(logps[i - 1, ids[0, i]] for i in range(asked_for, ids.shape[1]))))
        assert [answer[0][0] for answer in row["resps"]] == pytest.approx(by_hand, abs=1e-4)
        assert right == (max(range(3), key=lambda i: by_hand[i]) == row["target"])


def test_random_numbers_are_left_as_they_were(files: Path, tiny_model_dir: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    asked(files, tiny_model_dir(), tmp_path / "m", names=["our_choice"])
    assert torch.equal(torch.rand(3), expected)


def study(files: Path, out: Path, tasks: list[str], seeds: tuple[int, ...] = (0,)) -> Results:
    recipe = {
        "name": "t", "model": "sandbox:base", "methods": ["base", "sft"], "judge": "gold",
        "opponent": "sandbox:instruct", "sandbox": {"train_rows": 8, "validation_rows": 4, "test_rows": 4},
        "defaults": {"max_steps": 2, "warmup_steps": 0, "batch_size": 4},
        "evaluation": {"decoding": {"max_new_tokens": 8}},
        "tasks": {"names": tasks, "include_path": str(files)},
    }  # fmt: skip
    return run_study(Recipe.model_validate(recipe), out, seeds)


def test_a_study_asks_every_model_and_a_second_run_nothing(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = study(files, tmp_path / "out", ["our_group", "our_number"])
    assert [task.name for task in first.tasks if task.headline] == [
        "our_group (acc)",
        "our_number (exact_match, first-word)",
    ]
    assert [list(task.methods) for task in first.tasks] == [["sandbox:instruct", "base", "sft"]] * len(first.tasks)
    assert all(len(task.comparisons) == 3 for task in first.tasks)
    assert "standard tasks: " in first.verdict[-1]
    assert "Standard tasks" in (tmp_path / "out" / "report.html").read_text()

    def refuse(*given: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(engine, "Asked", refuse)
    monkeypatch.setattr(engine, "check_tasks", refuse)
    assert study(files, tmp_path / "out", ["our_group", "our_number"]).tasks == first.tasks
    monkeypatch.undo()
    # Tasks are no part of what a study is: another one is asked of what was trained.
    more = study(files, tmp_path / "out", ["our_group", "our_second"])
    assert more.methods == first.methods
    assert [task.task for task in more.tasks if task.headline] == ["our_group", "our_second"]
    pooled = study(files, tmp_path / "out", ["our_second"], seeds=(0, 1)).tasks[0]
    spread = pooled.methods["sft"].seeds
    assert spread is not None
    alone = next(task for task in more.tasks if task.headline and task.task == "our_second")
    assert spread.values[0] == alone.methods["sft"].value
    assert (sorted(spread.values), pooled.methods["base"].seeds) == ([0, 1], None)


def test_what_cannot_be_asked_is_told_before_training(files: Path, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=r"no task 'our_numbr', nor has .*Did you mean 'our_number'\?"):
        study(files, tmp_path / "out", ["our_numbr"])
    (files / "lost.yaml").write_text(CHOICE.format(name="lost", data=tmp_path / "gone.jsonl"))
    with pytest.raises(TrimtabError, match=r"task lost: cannot be loaded: .*gone.jsonl"):
        study(files, tmp_path / "out", ["lost"])
    assert not list((tmp_path / "out").glob("seed-*/stages/*/done.json"))


def test_evaluate_asks_tasks(files: Path, tiny_model_dir: Any, write_jsonl: Any, tmp_path: Path) -> None:
    data = write_jsonl([{"prompt": f"the {word}", "chosen": "sat", "rejected": "on"} for word in WORDS])
    settings = [f"tasks={{names: [our_number], include_path: {files}, max_new_tokens: 2}}"]
    settings += ["decoding.max_new_tokens=4"]
    results = evaluate_only(str(tiny_model_dir()), str(data), tmp_path / "out", None, None, None, settings)
    assert [(task.task, list(task.methods)) for task in results.tasks] == [("our_number", ["model"])] * 2
    assert any(setting.name == "tasks.max_new_tokens" for setting in results.provenance.settings)
    rows = samples(tmp_path / "out" / "evaluation" / "model", "our_number")
    assert {row["arguments"][0][1]["max_gen_toks"] for row in rows} == {2}
