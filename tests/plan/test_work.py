"""What a plan counts is what a study then does: steps, passes, evaluations, and every call of a reward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.parsing import parse
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.errors import TrimtabError
from trimtab.formats import byte_size, rough_duration
from trimtab.methods.distillation_settings import DistillationSettings
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.plan.estimate import make_plan
from trimtab.plan.memory import count_parameters
from trimtab.plan.speed import Speed
from trimtab.plan.tables import plan_tables
from trimtab.plan.work import StageWork, evaluations_in, stage_work
from trimtab.recipe import Recipe
from trimtab.rollout.sampler import Sampling
from trimtab.study.run import run_study
from trimtab.study.sources import resolve_model
from trimtab.study.stages import Stage
from trimtab.training.metrics import read_metrics

COUNTING = """
def scores(prompts, completions, **columns):
    with open({path!r}, "a") as file:
        file.write("x" * len(completions))
    return [float(len(text if isinstance(text, str) else text[-1]["content"])) for text in completions]
"""
STAGE = {"batch_size": 3, "max_steps": 5, "evaluation_interval": 2, "logging_interval": 1, "token_budget": 256}


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> dict[str, Any]:
    calls = tmp_path / "calls.txt"
    (tmp_path / "counting.py").write_text(COUNTING.format(path=str(calls)))
    grpo = {
        **STAGE, "samples": 2, "validation_prompts": 4, "sampling": {"max_new_tokens": 6},
        "rewards": [{"kind": "function", "path": f"{tmp_path / 'counting.py'}:scores"}],
    }  # fmt: skip
    return {
        "name": "counted", "model": str(tiny_model_dir()), "opponent": str(tiny_model_dir("other", 1)),
        "judge": {"kind": "function", "path": f"{tmp_path / 'counting.py'}:scores"},
        "methods": ["base", "sft", "grpo"],
        "sandbox": {"train_rows": 20, "validation_rows": 7, "test_rows": 9},
        "sft": STAGE, "grpo": grpo,
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 6}},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_judge_that_chooses_is_counted(name: str, recipe: dict[str, Any]) -> None:
    """Evaluations at steps 0, 2, 4 and 5, of three validation prompts each."""
    chosen = STAGE | {"best_metric": "judge", "best_is": "highest", "judged_prompts": 3, "judged_tokens": 9}
    value = recipe | {"methods": [name], "sft": STAGE, "dpo": STAGE} | {name: chosen}
    plan = make_plan(parse(Recipe, value, "test"), measured=False)
    works = {stage.work.name: stage.work for stage in plan.stages}
    assert works[name].judge_calls == 12
    drawn = works[name].validation_samples
    assert drawn is not None
    assert (drawn.completions, drawn.cap) == (12, 9)
    [calls] = [one for one in plan.calls if one.who == f"{name}: samples while training"]
    assert (calls.scored_by, calls.completions) == ("the judge", 12)
    assert all(work.judge_calls == 0 for other, work in works.items() if other != name)


@pytest.mark.slow
def test_a_study_makes_the_calls_that_were_planned(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Training: 5 steps · 3 prompts · 2 samples = 30. Evaluations at 0, 2, 4 and 5: 4 · 4 prompts = 16 for the
    reward, and 16 for the judge. At the end 4 models answer 9 prompts: 36."""
    made = parse(Recipe, recipe, "test")
    plan = make_plan(made, measured=False)
    assert [call.completions for call in plan.calls] == [46, 16, 36]
    out = tmp_path / "run"
    run_study(made, out)
    assert len((tmp_path / "calls.txt").read_text()) == 46 + 16 + 36
    for stage in plan.stages:
        done = json.loads((out / "seed-0" / "stages" / stage.work.name / "done.json").read_text())
        assert done["step"] == stage.work.steps == 5
        rows = read_metrics(out / "seed-0" / "stages" / stage.work.name / "metrics.jsonl")
        assert sum("eval_loss" in row or "eval_reward" in row for row in rows) == stage.work.evaluations == 4
    sft = json.loads((out / "seed-0" / "stages" / "sft" / "done.json").read_text())
    assert plan.stages[0].work.step_tokens * 5 == pytest.approx(sft["tokens"])


@pytest.mark.slow
def test_rounds_make_the_calls_that_were_planned(recipe: dict[str, Any], tmp_path: Path) -> None:
    """7 prompts · 3 samples in each of two rounds; then three models answer 9 prompts."""
    rounds = {"rounds": 2, "prompts": 7, "samples": 3, "sampling": {"max_new_tokens": 6}}
    recipe |= {
        "methods": ["sft", "online_dpo"],
        "online_dpo": STAGE | rounds | {"rewards": recipe["grpo"]["rewards"]},
    }
    made = parse(Recipe, recipe, "test")
    plan = make_plan(made, measured=False)
    assert [stage.work.name for stage in plan.stages] == ["sft", "online_dpo-1", "online_dpo-2"]
    assert [call.completions for call in plan.calls] == [21, 21, 27]
    out = tmp_path / "run"
    run_study(made, out)
    assert len((tmp_path / "calls.txt").read_text()) == 21 + 21 + 27
    for stage in plan.stages[1:]:
        folder = out / "seed-0" / "stages" / stage.work.name
        assert json.loads((folder / "done.json").read_text())["step"] == stage.work.steps == 5
        rows = read_metrics(folder / "metrics.jsonl")
        assert sum("eval_loss" in row for row in rows) == stage.work.evaluations == 4


@pytest.mark.slow
def test_ppo_reads_its_samples_twice_and_scores_them_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Two updates a batch: 5 steps take 3 batches of 3 prompts, one sample each: 9, and 16 for evaluations. The
    reference and, for its values, the policy read each batch once."""
    recipe |= {"methods": ["sft", "ppo"], "ppo": recipe["grpo"] | {"samples": 1, "updates_per_batch": 2}}
    made = parse(Recipe, recipe, "test")
    plan = make_plan(made, measured=False)
    assert [call.completions for call in plan.calls] == [9 + 16, 16, 27]
    sft, ppo = (stage.work for stage in plan.stages)
    assert (sft.forward_tokens, ppo.forward_tokens) == (0, pytest.approx(2 * 3 * ppo.step_tokens))
    assert plan.stages[1].memory.parts["reference"] == 4 * plan.stages[1].parameters.total
    results = run_study(made, tmp_path / "run")
    assert len((tmp_path / "calls.txt").read_text()) == 9 + 16 + 16 + 27
    assert list(results.methods) == ["sft", "ppo"]
    assert {"ppo", "sft"} == set(results.curves)
    assert results.training_reward == results.judge, "the same function"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "PPO" in page
    assert "Figure curves_ppo: PPO: training, and validation on held-out prompts" in page
    assert (tmp_path / "run" / "seed-0" / "stages" / "ppo" / "best" / "README.md").read_text().count("value head")


def test_fixed_rollouts_are_scored_once(recipe: dict[str, Any]) -> None:
    recipe["grpo"] |= {"rollouts": "fixed", "fixed_prompts": 8, "kl": "k2", "validation_prompts": 0}
    plan = make_plan(parse(Recipe, recipe | {"tasks": ["gsm8k", "ifeval"]}, "test"), measured=False)
    assert [call.completions for call in plan.calls] == [8 * 2, 36]
    # What is not counted is said; every method and the opponent are asked.
    models = len(recipe["methods"]) + 1
    assert f"Not counted: 2 standard tasks (gsm8k, ifeval), asked of {models} models." in plan.notes


@pytest.mark.parametrize(("steps", "interval", "times"), [(10, 5, 3), (11, 5, 4), (4, 5, 2), (5, 1, 6)])
def test_evaluations(steps: int, interval: int, times: int) -> None:
    """At 0, at each multiple, and at the end where that is none."""
    assert evaluations_in(steps, interval) == times


def test_time_scales_with_steps_and_is_the_sum_of_its_parts(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speeds given: 1 ms a trained token, 0.5 ms otherwise, 2 s a step; saving is free."""
    from trimtab.plan.speed import Stopwatch

    monkeypatch.setattr(Stopwatch, "speed", lambda self: Speed(1e-3, 5e-4, 2.0, 0.0))
    monkeypatch.setattr(Stopwatch, "decoding", lambda self, sampled: 0.1 * sampled.completions)
    recipe["methods"] = ["sft", "grpo"]

    def planned(steps: int) -> Any:
        given = {**recipe, "sft": {**STAGE, "max_steps": steps}}
        return make_plan(parse(Recipe, given, "test"))

    short, long = planned(5), planned(50)
    work = short.stages[0].work
    assert short.stages[0].seconds["steps"] == pytest.approx(5 * (work.step_tokens * 1e-3 + 2.0))
    assert short.stages[0].seconds["evaluations"] == pytest.approx(4 * work.validation_tokens * 5e-4)
    assert long.stages[0].seconds["steps"] == pytest.approx(10 * short.stages[0].seconds["steps"], rel=0.1)
    grpo = short.stages[1]
    assert grpo.seconds["steps"] == pytest.approx(5 * (grpo.work.step_tokens * 1.5e-3 + 2.0))
    assert grpo.seconds["sampling"] == pytest.approx(0.1 * (30 + 16))

    rounds = {"rounds": 1, "prompts": 7, "samples": 3, "sampling": {"max_new_tokens": 6}}
    given = {"methods": ["online_dpo"], "online_dpo": STAGE | rounds | {"rewards": recipe["grpo"]["rewards"]}}
    one = make_plan(parse(Recipe, recipe | given, "test")).stages[1]
    # The reference's log-probabilities are computed once, and not in each step as GRPO's are.
    assert one.seconds["steps"] == pytest.approx(5 * (one.work.step_tokens * 1e-3 + 2.0))
    assert one.seconds["reference"] == pytest.approx(one.work.reference_tokens * 5e-4)
    assert one.seconds["sampling"] == pytest.approx(0.1 * 21)


def test_a_measured_plan_has_a_time_for_each_part(recipe: dict[str, Any]) -> None:
    plan = make_plan(parse(Recipe, recipe, "test"))
    for stage in plan.stages:
        assert stage.seconds["steps"] > 0
        assert (stage.seconds["sampling"] > 0) == (stage.work.name == "grpo")
    titles = [table.caption.split(" on ")[0] for table in plan_tables(plan)]
    assert titles == ["Parameters", "Work and disk", "Memory", "Time", "Reward and judge calls, at most"]


def test_units() -> None:
    assert (byte_size(512), byte_size(2**20), byte_size(3 * 2**30)) == ("512 B", "1 MiB", "3.00 GiB")
    assert (rough_duration(9), rough_duration(90), rough_duration(5400)) == ("9.0 s", "1.5 min", "1.5 h")


def test_rows_are_counted_as_the_loss_reads_them(tiny_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    """Labels for KTO, every completion for a ranking; a loss without a reference has no pass for one."""
    chat = ChatFormat(load_tokenizer(str(tiny_model_dir())))
    labelled = Splits([Record(f"Say {i}", ("yes",), labels=(i % 2 == 0,)) for i in range(6)])
    ranked = Splits([Record(f"Say {i}", ("a b c", "b c", "c")) for i in range(6)])

    def work(loss: Any, splits: Splits) -> StageWork:
        return stage_work(Stage("dpo", "dpo", DPOSettings(loss=loss, max_steps=1), "sft", ""), False, splits, chat)

    assert work("kto", labelled).groups == 6
    assert {len(g.completions) for g in work("ranking", ranked).largest} == {3}
    assert work("dpo", ranked).reference_tokens > 0
    assert work("simpo", ranked).reference_tokens == work({"simpo": 1.0, "sft": 0.1}, ranked).reference_tokens == 0


def test_every_model_that_scores_is_in_the_memory(
    recipe: dict[str, Any], tiny_model_dir: Callable[..., Path]
) -> None:
    """A language model's weights as they are; the judge is there in every stage, GRPO's rewards in GRPO."""
    model = str(tiny_model_dir())
    scorer = {"kind": "nemotron_local", "model": model, "name": "scorer"}
    recipe |= {"judge": scorer, "methods": ["sft", "grpo"]}
    recipe["grpo"]["rewards"] = [scorer]
    sft, grpo = make_plan(parse(Recipe, recipe, "test"), measured=False).stages
    size = 4 * count_parameters(model).total
    assert sft.memory.parts["reward and judge models"] == size
    assert grpo.memory.parts["reward and judge models"] == 2 * size


def test_a_plan_runs_no_code_of_a_models(
    recipe: dict[str, Any], tiny_model_dir: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it ask: transformers would, and here the answer is yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tiny_model_dir("coded")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd", "AutoModelForCausalLM": "odd.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(TrimtabError, match="asks for Python code of its own"):
        make_plan(parse(Recipe, recipe | {"model": str(folder)}, "test"), measured=False)
    assert not (folder / "ran").exists()


def test_a_students_answers_and_its_teachers_passes_are_counted(tmp_path: Path) -> None:
    """12 rows, 4 a step, 6 steps, evaluated at 0, 3 and 6; half of the prompts answered anew, at most 8 tokens."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"p{i}", "completion": "a b"}) + "\n" for i in range(15)))
    data = DataSettings(train=str(rows), max_length=64, validation_rows=3)
    settings = DistillationSettings(
        batch_size=4, max_steps=6, evaluation_interval=3, sampling=Sampling(max_new_tokens=8), own_share=0.5
    )
    chat = ChatFormat(load_tokenizer(resolve_model("sandbox:base")), data)
    work = stage_work(Stage("distillation", "distillation", settings, "sft", ""), False, split_records(data), chat)
    assert work.rollouts is not None
    assert work.validation_samples is not None
    assert (work.rollouts.completions, work.rollouts.cap) == (12, 8)
    assert work.validation_samples.completions == 9
    assert work.forward_tokens == pytest.approx(6 * work.step_tokens), "the teacher reads what is trained on"
    none = settings.model_copy(update={"own_share": 0.0})
    work = stage_work(Stage("distillation", "distillation", none, "sft", ""), False, split_records(data), chat)
    assert work.rollouts is None
    assert work.validation_samples is None
