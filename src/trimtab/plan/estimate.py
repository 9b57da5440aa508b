"""The plan of a study: parameters, memory, time, calls and disk, stage by stage.

It reads the recipe's rows and the model's config, and no weights. What it leaves out is said in its notes.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.devices import best_device, name_of, on_cpu
from trimtab.evaluation.results import Results
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.models.settings import resolve_precision
from trimtab.plan.memory import FLOAT, Memory, Parameters, count_parameters, load_config, module_bytes, stage_memory
from trimtab.plan.power import power_lines
from trimtab.plan.speed import Speed, Stopwatch
from trimtab.plan.work import Sampled, StageWork, encoded, stage_work
from trimtab.progress import Progress
from trimtab.recipe import Recipe
from trimtab.rewards.settings import named_apart
from trimtab.rewards.settings_base import RewardSettings
from trimtab.sandbox.generate import preference_data
from trimtab.study.sources import resolve_model
from trimtab.study.stages import stages_of
from trimtab.study.training_seed import BASE, shared_models

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Calls:
    """Completions that a reward or judge scores. who: of whom, and when. tokens: prompt and completion of all."""

    who: str
    scored_by: str
    completions: int
    tokens: int


@dataclass(frozen=True)
class Disk:
    """Bytes: the most while a stage runs, and what it leaves."""

    running: int
    left: int


@dataclass
class StagePlan:
    """seconds: by part; empty where nothing was measured."""

    work: StageWork
    parameters: Parameters
    memory: Memory
    disk: Disk
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Plan:
    """Of one training seed. evaluation_seconds: of all methods and the opponent; None where not measured."""

    name: str
    device: str
    parameters: Parameters
    stages: list[StagePlan]
    calls: list[Calls]
    evaluation_seconds: float | None = None
    notes: list[str] = field(default_factory=list)


def make_plan(
    recipe: Recipe, measured: bool = True, seeds: int = 1, pilot: Results | None = None, processes: int = 1
) -> Plan:
    """Counts, traces and, where `measured`, times the stages of a recipe. seeds, pilot: for what its test
    prompts can show (power.py). processes: of a stage, for the memory of each."""
    model = resolve_model(recipe.model)
    config = load_config(model)
    data, splits = _rows(recipe)
    chat = ChatFormat(
        load_tokenizer(resolve_model(recipe.tokenizer or recipe.model), recipe.settings_of("sft")), data
    )
    device = best_device()
    sampled = _first_rows(recipe.prompts, recipe) if recipe.prompts else splits
    splits = replace(splits, test=splits.test or sampled.test or splits.validation)
    planned = stages_of(recipe)
    of_reward = _first_rows(recipe.reward_data, recipe) if recipe.reward_data else splits
    own = {s.name: of_reward if s.method == "reward" else splits for s in planned}
    rows_of = {s.name: sampled if recipe.samples_prompts(s.method) else own[s.name] for s in planned}
    judge_scores = recipe.judge is not None and not recipe.judge.compares
    works = [stage_work(stage, judge_scores, rows_of[stage.name], chat) for stage in planned]
    stages = []
    with Progress("plan: memory", len(works), "stages") as progress:
        for work in works:
            precision = resolve_precision(work.settings.precision, device)
            local = _local_models(work, recipe, model)
            own_config, on_gpu = _config_of(work, recipe, config), device.type != "cpu"
            memory = stage_memory(work, own_config, precision, on_gpu, local, processes)
            sizes = count_parameters(model, work.settings.lora)
            stages.append(StagePlan(work, sizes, memory, disk_of(work, sizes, bool(rows_of[work.name].validation))))
            progress.advance()
    plan = Plan(recipe.name, _device_name(), count_parameters(model), stages, _calls(recipe, works, splits, chat))
    if measured:
        with Progress("plan: time", len(stages), "stages") as progress:
            _measure(plan, recipe, config, splits, chat, progress)
    shown = power_lines(len(splits.test), len(set(recipe.methods)), seeds, pilot) if recipe.judge else []
    plan.notes = [*shown, *_notes(recipe, measured)]
    if processes > 1:
        plan.notes.append(f"Memory is of each of {processes} processes; times and counts are of one alone.")
    return plan


def _config_of(work: StageWork, recipe: Recipe, config: PretrainedConfig) -> PretrainedConfig:
    """The config of the model that a stage trains; config: the study's own."""
    if work.is_reward_model and recipe.reward_model:
        return load_config(resolve_model(recipe.reward_model), "start of a reward model")
    return config


def _local_models(work: StageWork, recipe: Recipe, model: str) -> int:
    """Bytes of models that only score or teach in a stage's process: the judge in each, a method's in its own."""
    scoring = [recipe.judge] if recipe.judge else []
    rewards = recipe.rewarded[work.method].rewards if work.method in recipe.rewarded else ()
    size = sum(_scorer_bytes(scorer, model) for scorer in [*scoring, *rewards])
    teacher = getattr(work.settings, "teacher", None)
    size += FLOAT * count_parameters(resolve_model(teacher)).total if teacher else 0
    if any(scorer.needs_training for scorer in rewards):
        size += (
            FLOAT
            * count_parameters(resolve_model(recipe.reward_model or model), role="start of a reward model").total
        )
    return size


def _scorer_bytes(scorer: RewardSettings, policy: str) -> int:
    """policy: the study's own model."""
    source = policy if scorer.asks_policy else scorer.local_model
    if source is None:
        return 0
    if scorer.role == "reward model":
        return module_bytes(resolve_model(source))
    device = best_device()
    size = FLOAT // 2 if resolve_precision(scorer.weights_precision, device) == "bf16" else FLOAT
    return size * count_parameters(resolve_model(source)).total


def _rows(recipe: Recipe) -> tuple[DataSettings, Splits]:
    """The recipe's rows; the sandbox's are made, and not written."""
    if recipe.data is not None:
        return recipe.data, _first_rows(recipe.data, recipe)
    sandbox = recipe.sandbox
    assert sandbox is not None
    splits = Splits(
        preference_data("train", sandbox.train_rows, sandbox.seed)[: recipe.limit],
        preference_data("validation", sandbox.validation_rows, sandbox.seed)[: recipe.limit],
        preference_data("test", sandbox.test_rows, sandbox.seed)[: recipe.limit],
    )
    return DataSettings(train="sandbox", max_length=sandbox.max_length), splits


def _first_rows(data: DataSettings, recipe: Recipe) -> Splits:
    return split_records(data.model_copy(update={"limit": recipe.limit} if recipe.limit else {}))


def disk_of(work: StageWork, sizes: Parameters, validated: bool) -> Disk:
    """The best weights twice (the best so far, and the one that a resumed run would start from) and one more
    being written; a checkpoint has the trained weights and two moments, twice while the new one is written.

    Afterwards best/, and last/ too where validation may find that nothing was better than the start.
    """
    best = FLOAT * (sizes.total + sizes.saved_more)
    settings = work.settings.of_a_round if isinstance(work.settings, OnlineDPOSettings) else work.settings
    chosen = validated and (settings.best_metric or "").removeprefix("eval_") != "step"
    last = best if chosen else 0
    checkpoint = 3 * FLOAT * sizes.trained
    reference = int(FLOAT * work.reference_tokens)
    running = 3 * best + (2 * checkpoint if work.checkpoints else 0) + reference
    return Disk(running, best + last + reference)


def _calls(recipe: Recipe, works: Sequence[StageWork], splits: Splits, chat: ChatFormat) -> list[Calls]:
    expected_calls = []
    for work in works:
        method = recipe.rewarded.get(work.method)
        rewards = ", ".join(reward.kind for reward in method.rewards) if method else ""
        for calls, by in ((work.reward_calls, f"the training reward ({rewards})"), (work.judge_calls, "the judge")):
            sampled = work.rollouts or work.validation_samples
            if calls and sampled is not None:
                tokens = round(calls * (sampled.prompt_tokens + sampled.cap))
                expected_calls.append(Calls(f"{work.name}: samples while training", by, calls, tokens))
    judges = {"the judge": recipe.judge} if recipe.judge is not None else {}
    judges |= {f"the second judge {name}": judge for name, judge in named_apart(recipe.second_judges).items()}
    if judges:
        sampled = evaluation_samples(recipe, splits, chat)
        models = asked_models(recipe)
        who = f"evaluation: {models} models on {sampled.completions} prompts"
        for name, asked in judges.items():
            compared = models - 1 if asked.compares else models
            calls = compared * asked.calls * sampled.completions
            answers = 2 if asked.compares else 1
            tokens = round(calls * (sampled.prompt_tokens + answers * sampled.cap))
            expected_calls.append(Calls(who, name, calls, tokens))
    return expected_calls


def asked_models(recipe: Recipe) -> int:
    """How many models answer the test prompts: of each method that trains, and those that all seeds share."""
    return len(set(recipe.methods) - {BASE}) + len(shared_models(recipe))


def evaluation_samples(recipe: Recipe, splits: Splits, chat: ChatFormat) -> Sampled:
    """What one model answers in evaluation."""
    decoding = recipe.evaluation.decoding
    prompts = encoded(splits.test, chat, "none")
    mean = sum(len(g.prompt) for g in prompts.groups) / max(1, len(prompts.groups))
    beams = decoding.num_beams if decoding.strategy == "beam" else 1
    together = min(decoding.batch_size, len(splits.test)) * beams
    return Sampled(len(splits.test), decoding.max_new_tokens, together, mean)


def _measure(
    plan: Plan, recipe: Recipe, config: PretrainedConfig, splits: Splits, chat: ChatFormat, progress: Progress
) -> None:
    device = best_device()
    step = 0.0
    for i, stage in enumerate(plan.stages):
        own = _config_of(stage.work, recipe, config)
        watch = Stopwatch(stage.work, own, resolve_precision(stage.work.settings.precision, device))
        speed = watch.speed()
        # A reward model has the same weights but for its head: its step is that of the policy before it.
        step = speed.optimizer_step or step
        stage.seconds = _seconds(stage, replace(speed, optimizer_step=step), watch)
        if i == len(plan.stages) - 1:
            models = asked_models(recipe)
            sampled = evaluation_samples(recipe, splits, chat)
            fluency = encoded(splits.validation, chat, "first").tokens if splits.validation else 0.0
            beams = recipe.evaluation.decoding.num_beams if recipe.evaluation.decoding.strategy == "beam" else 1
            rows = replace(sampled, completions=sampled.completions * beams, per_prompt=beams)
            plan.evaluation_seconds = models * (watch.decoding(rows) + fluency * speed.forward_token)
        del watch
        gc.collect()
        progress.advance()


def _seconds(stage: StagePlan, speed: Speed, watch: Stopwatch) -> dict[str, float]:
    """training/stage.py's parts. `steps` holds all that a step does but its samples."""
    work = stage.work
    drawn = [sampled for sampled in (work.rollouts, work.validation_samples, work.penalty) if sampled is not None]
    penalty = work.penalty
    extra = penalty.completions * (penalty.prompt_tokens + penalty.cap) * speed.train_token if penalty else 0.0
    written = work.checkpoints * 3 * FLOAT * stage.parameters.trained + FLOAT * stage.parameters.total
    return {
        "reference": work.reference_tokens * speed.forward_token,
        "steps": work.steps * (work.step_tokens * speed.train_token + speed.optimizer_step)
        + work.forward_tokens * speed.forward_token
        + extra,
        "sampling": sum(watch.decoding(sampled) for sampled in drawn),
        "evaluations": work.evaluations * work.validation_tokens * speed.forward_token,
        "saving": written * speed.written_byte,
    }


def _device_name() -> str:
    if not on_cpu():
        return name_of(best_device())
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def _notes(recipe: Recipe, measured: bool) -> list[str]:
    notes = [
        "One training seed, and nothing stopped early: patience makes a run shorter.",
        "Samples are taken as long as their cap; a model that ends its answers costs less.",
        "Calls are at most these: a score that is in the cache is not paid for again.",
        "Memory is the peak that done.json reports: resident on a CPU, allocated on CUDA.",
        "docs/plan.md says how near such estimates came to real runs.",
    ]
    if torch.cuda.is_available():
        notes.append("Activations are traced on the CPU's attention; CUDA's keeps about as much.")
    elif not on_cpu():
        notes.append("Activations are traced on the CPU's attention; a Mac's GPU keeps every score too.")
    if measured:
        notes.append(
            "Times were measured on random weights of the model's shape, on this machine as busy as it is now."
        )
    if recipe.tasks is not None:
        asked = len(recipe.tasks.names)
        notes.append(
            f"Not counted: {asked} standard task{'s' * (asked > 1)} ({', '.join(recipe.tasks.names)}), asked of "
            f"{asked_models(recipe)} models."
        )
    engines = {recipe.evaluation.decoding.engine}
    engines |= {method.sampling.engine for method in recipe.rewarded.values()}
    if engines - {"transformers"}:
        notes.append("Sampling is planned as transformers does it; vLLM's own speed and memory are not estimated.")
    return notes
