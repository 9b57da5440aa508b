"""Methods that train the model as it is, and that sample for rows of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.toy import write_model, write_plain_pairs
from trimtab.data.parsing import parse
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.models.lora import hash_model
from trimtab.plan.estimate import make_plan
from trimtab.recipe import Recipe
from trimtab.study.run import run_study, study_rows
from trimtab.study.stages import stages_of

STAGE = {"batch_size": 2, "max_steps": 2, "evaluation_interval": 2, "logging_interval": 1, "learning_rate": 1e-3}
SAMPLED = {**STAGE, "samples": 2, "sampling": {"max_new_tokens": 4}}
FUNCTION = """
def score(prompts, completions, wanted, **kwargs):
    return [len(c) + sum(map(ord, c)) % 7 + (w == "a") for w, c in zip(wanted, completions)]
"""
"""It differs between almost any two texts, and cannot be asked without the column."""


def recipe(folder: Path, **changes: Any) -> Recipe:
    """Pairs for DPO, and ten prompts with a column for GRPO and online DPO, which is not in the pairs."""
    if not (folder / "score.py").is_file():
        write_model(folder / "model")
        write_plain_pairs(folder / "pairs.jsonl", 16)
        tested = json.loads((folder / "pairs.jsonl").read_text().splitlines()[4])["prompt"]
        prompts = [f"Name number {n}." for n in range(9)] + [tested]
        rows = [json.dumps({"prompt": prompt, "wanted": "a"}) for prompt in prompts]
        (folder / "prompts.jsonl").write_text("\n".join(rows))
        (folder / "score.py").write_text(FUNCTION)
    rewards = [{"kind": "function", "path": f"{folder / 'score.py'}:score"}]
    value = {
        "name": "own",
        "model": str(folder / "model"),
        "methods": ["base", "dpo", "online_dpo", "grpo"],
        "starts_from": {"dpo": "base", "online_dpo": "base", "grpo": "base"},
        "data": {"train": str(folder / "pairs.jsonl"), "validation_rows": 4, "test_rows": 4},
        "prompts": {"train": str(folder / "prompts.jsonl"), "validation_rows": 2},
        "dpo": STAGE,
        "grpo": {**SAMPLED, "rewards": rewards},
        "online_dpo": {**SAMPLED, "rewards": rewards, "rounds": 1, "prompts": 4, "samples": 4},
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 4}},
        **changes,
    }
    return parse(Recipe, value, "test")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("own")
    return folder, run_study(recipe(folder), folder / "run")


def _of(folder: Path, stage: str) -> Any:
    return json.loads((folder / "run" / "seed-0" / "stages" / stage / "stage.json").read_text())


def test_nothing_else_is_trained(done: tuple[Path, Results]) -> None:
    folder, results = done
    assert [stage.name for stage in stages_of(recipe(folder))] == ["dpo", "online_dpo-1", "grpo"]
    assert not (folder / "run" / "seed-0" / "stages" / "sft").exists()
    assert list(results.methods) == ["base", "dpo", "online_dpo", "grpo"]


def test_each_starts_from_the_model_as_it_is(done: tuple[Path, Results]) -> None:
    folder, _ = done
    base = hash_model(str(folder / "model"))
    assert all(_of(folder, stage)["model"] == base for stage in ("dpo", "grpo", "online_dpo-1-pairs"))


def test_prompts_are_those_of_their_own_rows(done: tuple[Path, Results]) -> None:
    folder, results = done
    stages = folder / "run" / "seed-0" / "stages"
    counts = {s: json.loads((stages / s / "data.json").read_text()) for s in ("dpo", "grpo")}
    assert [(counts[s]["train"]["rows"], counts[s]["validation"]["rows"]) for s in counts] == [(8, 4), (8, 2)]
    drawn = [
        json.loads(line)["prompt"] for line in (stages / "grpo" / "completions.jsonl").read_text().splitlines()
    ]
    assert drawn
    assert all("number" in prompt or prompt.endswith(":") for prompt in drawn)
    pairs = [json.loads(line) for line in (stages / "online_dpo-1-pairs" / "pairs.jsonl").read_text().splitlines()]
    own = [json.loads(line)["prompt"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert pairs
    assert all(pair["prompt"] in own for pair in pairs)
    assert {source.role for source in results.provenance.data} == {"train", "prompts: train"}


def test_a_prompt_that_is_tested_on_is_told(done: tuple[Path, Results]) -> None:
    """The last of the ten is a test prompt of data's."""
    assert any(w.startswith("1 training rows have a prompt that is also in") for w in done[1].warnings)


def test_a_plan_counts_the_rows_that_a_stage_has(done: tuple[Path, Results]) -> None:
    """8 pairs; 8 prompts of their own, of which a round of online DPO takes 4."""
    plan = make_plan(recipe(done[0]), measured=False)
    assert {stage.work.name: stage.work.groups for stage in plan.stages} == {"dpo": 8, "online_dpo-1": 4, "grpo": 8}


def test_test_rows_may_be_those_of_the_prompts(done: tuple[Path, Results], tmp_path: Path) -> None:
    """Of ten prompts 3 test, whose first is the prompt of one of the 12 pairs that are trained on."""
    folder = done[0]
    tested = json.loads((folder / "prompts.jsonl").read_text().splitlines()[-1])
    rows = [json.dumps(tested), *(folder / "prompts.jsonl").read_text().splitlines()[:-1]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    prompts = {"train": str(tmp_path / "prompts.jsonl"), "test_rows": 3}
    data = {"train": str(folder / "pairs.jsonl"), "validation_rows": 4}
    small = {"methods": ["base", "grpo"], "starts_from": {"grpo": "base"}, "data": data, "prompts": prompts}
    own = recipe(folder, **small)
    results = run_study(own, tmp_path / "run")
    asked = (tmp_path / "run" / "seed-0" / "evaluation" / "grpo" / "generations.jsonl").read_text().splitlines()
    assert [json.loads(row)["prompt"] for row in asked] == [json.loads(row)["prompt"] for row in rows[:3]]
    assert any(w.startswith("1 training rows have a prompt that is also in") for w in results.warnings)
    assert make_plan(own, measured=False).stages[0].work.groups == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts_from": {"sft": "base"}}, "starts_from: 'sft' is none of dpo, reward"),
        ({"starts_from": {"dpo": "grpo"}}, "'base' or 'sft'"),
        ({"prompts": {"train": "prompts.jsonl", "test_rows": 3}}, "data and prompts both name test rows"),
        ({"methods": ["base", "dpo"]}, "prompts: no method of this study is driven by a reward"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=message):
        recipe(tmp_path, **changes)


def test_prompts_may_be_there_to_be_tested_on_alone(tmp_path: Path) -> None:
    """As where a study of several methods is tried with those that learn from pairs."""
    pairs = {"train": str(tmp_path / "pairs.jsonl"), "validation_rows": 4}
    asked = {"train": str(tmp_path / "prompts.jsonl"), "test_rows": 3}
    made = recipe(tmp_path, methods=["base", "dpo"], data=pairs, prompts=asked)
    assert [record.prompt for record in study_rows(made, tmp_path / "run").splits.test] == [
        f"Name number {n}." for n in range(3)
    ]
    with pytest.raises(TrimtabError, match="so nothing reads them"):
        recipe(tmp_path, methods=["base", "dpo"], prompts={"train": asked["train"]})
