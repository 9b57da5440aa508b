"""What each stage of a study does, counted from its rows: steps, passes, tokens, samples, reward calls.

Counts hold for a run that nothing stops early; completions that the policy samples are taken as long as their
cap. Both make a plan an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup, cut_into_passes
from trimtab.data.records import Record
from trimtab.data.split_groups import CompletionsOf, Expansion, encode_records
from trimtab.data.splits import Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import Decoding
from trimtab.json_types import JsonObject
from trimtab.losses.table import needs_reference
from trimtab.methods.distillation_settings import DistillationSettings
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.on_policy_settings import OnPolicySettings
from trimtab.methods.online_dpo import NAME, OnlineDPO
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.rounds import CHUNK, prompts_a_round
from trimtab.methods.sft_settings import SFTSettings
from trimtab.methods.table import METHODS
from trimtab.study.stages import Stage
from trimtab.training.schedule import TrainingSettings, groups_of_step, total_steps
from trimtab.training.stage import validated_completions

Pass = list[CompletionGroup]
LOOKED_AT = 2000
"""Rows of a split that are encoded; the rest is taken to be like them."""
STEPS_LOOKED_AT = 200


@dataclass(frozen=True)
class Sampled:
    """Completions that a stage draws. prompt_tokens: of a mean prompt. together: rows decoded side by side.
    per_prompt: completions of one prompt, which is computed once for them."""

    completions: int
    cap: int
    together: int
    prompt_tokens: float
    per_prompt: int = 1


@dataclass(frozen=True)
class StageWork:
    """One stage. Tokens are packed tokens, as passes hold them.

    largest: the pass with most tokens; several_passes: whether some step has more than one. example: a pass of
    ordinary groups. held_tokens: of all rows, in the process's memory. rollouts: samples that are trained on;
    validation_samples: GRPO's and PPO's; penalty: the length penalty's. reward_calls, judge_calls: completions
    scored while training.
    """

    name: str
    method: str
    settings: TrainingSettings
    groups: int
    steps: int
    step_tokens: float
    largest: list[CompletionGroup]
    several_passes: bool
    example: list[CompletionGroup]
    evaluations: int
    validation_tokens: float
    reference_tokens: float
    checkpoints: int
    held_tokens: float
    rollouts: Sampled | None = None
    validation_samples: Sampled | None = None
    penalty: Sampled | None = None
    reward_calls: int = 0
    judge_calls: int = 0
    forward_tokens: float = 0.0
    """Of passes without gradient over what is trained on: the reference's, PPO's values, KTO's reference point."""

    @property
    def is_reward_model(self) -> bool:
        """Whether it trains a model that scores, and none that answers."""
        return METHODS[self.method].method.role != "policy"


@dataclass(frozen=True)
class Rows:
    """A split as a method sees it: some of its groups, and how many there are in all."""

    groups: Sequence[CompletionGroup]
    count: int

    @property
    def tokens(self) -> float:
        """Packed tokens of all of them."""
        mean = sum(g.packed_length for g in self.groups) / max(1, len(self.groups))
        return mean * self.count


def encoded(
    records: Sequence[Record], chat: ChatFormat, completions: CompletionsOf, expand: Expansion | None = None
) -> Rows:
    """Encodes the rows, or LOOKED_AT of them spread evenly."""
    stride = max(1, math.ceil(len(records) / LOOKED_AT))
    looked = records[::stride]
    groups, _ = encode_records(looked, chat, completions, expand)
    kept = len(groups) if stride == 1 else round(len(records) * len(groups) / len(looked))
    return Rows(groups, kept)


def evaluations_in(steps: int, interval: int) -> int:
    """At step 0, every interval, and at the end."""
    return 1 + steps // interval + (steps % interval > 0)


def stage_work(stage: Stage, recipe_judged: bool, splits: Splits, chat: ChatFormat) -> StageWork:
    """Counts one stage. TrimtabError where no training row is left."""
    name, method, settings = stage.name, stage.method, stage.settings
    method_class = METHODS[method].method
    chat = method_class.text_format(chat.tokenizer, chat.truncation, settings)
    if isinstance(settings, OnlineDPOSettings):
        return _with_judge(_round_work(name, settings, splits, chat), splits)
    expand = method_class.expansion(settings)
    train = encoded(splits.train, chat, method_class.completions_of(settings), expand)
    if not train.groups:
        raise TrimtabError(f"{name}: no training row is left after truncation. Raise data.max_length.")
    pairs = all(record.is_pair for record in splits.validation)
    validation = encoded(splits.validation, chat, validated_completions(method_class, settings, splits), expand)
    if isinstance(settings, OnPolicySettings):
        return _on_policy_work(
            name, method, settings, recipe_judged, train, validation, pairs and bool(splits.validation)
        )
    steps = total_steps(settings, train.count)
    teaching = _teaching(settings, steps, train, validation) if isinstance(settings, DistillationSettings) else None
    groups = teaching.groups if teaching else train.groups
    passes = _passes(groups, settings, steps)
    penalty = _penalty(settings, steps, train) if isinstance(settings, SFTSettings) else None
    step_tokens = _step_tokens(passes)
    # KTO's reference point: completions of other prompts, as many again, by policy and reference.
    points = int(isinstance(settings, DPOSettings) and "reference_point" in settings.inputs)
    referenced = (1 + points) * (train.tokens + validation.tokens)
    largest = _largest(passes)
    if penalty is not None and isinstance(settings, SFTSettings) and settings.length_penalty is not None:
        extra = [_sampled_group(g, settings.length_penalty.paths, penalty.cap) for g in train.groups]
        largest = max([largest, *_passes(extra, settings, 1)[0]], key=_tokens)
    work = StageWork(
        name, method, settings, train.count, steps,
        step_tokens=step_tokens,
        largest=largest,
        several_passes=penalty is not None or any(len(step) > 1 for step in passes),
        example=passes[0][0],
        reference_tokens=referenced if _has_reference(settings) else 0.0,
        held_tokens=train.tokens + validation.tokens,
        penalty=penalty,
        rollouts=teaching.rollouts if teaching else None,
        validation_samples=teaching.validation_samples if teaching else None,
        forward_tokens=(points + (teaching is not None)) * steps * step_tokens,
        **_rhythm(settings, steps, (1 + points + (teaching is not None)) * validation.tokens),
    )  # fmt: skip
    return work if teaching else _with_judge(work, splits)


def _with_judge(work: StageWork, splits: Splits) -> StageWork:
    """What choosing the checkpoint by the judge adds: answers to validation prompts at each evaluation."""
    settings = work.settings
    asked = min(settings.judged_prompts, len(splits.validation))
    if not settings.chosen_by_judge or not asked:
        return work
    mean_prompt = sum(len(group.prompt) for group in work.example) / len(work.example)
    drawn = work.evaluations * asked
    sampled = Sampled(drawn, settings.judged_tokens, min(asked, Decoding().batch_size), mean_prompt)
    return replace(work, validation_samples=sampled, judge_calls=drawn)


@dataclass(frozen=True)
class _Teaching:
    """What distillation adds: groups as long as the student's answers may be, and the answers that it draws."""

    groups: Sequence[CompletionGroup]
    rollouts: Sampled | None
    validation_samples: Sampled | None


def _teaching(settings: DistillationSettings, steps: int, train: Rows, validation: Rows) -> _Teaching:
    cap, share, size = settings.sampling.max_new_tokens, settings.own_share, settings.sampling.batch_size
    mean_prompt = sum(len(g.prompt) for g in train.groups) / len(train.groups)
    own = math.ceil(share * settings.step_groups)
    held_out = min(settings.validation_prompts, validation.count) if share else 0
    interval = settings.evaluation_interval or max(1, steps // 10)
    checked = evaluations_in(steps, interval) * held_out
    answers = [_sampled_group(g, 1, cap) for g in train.groups]
    longer = [max(pair, key=lambda g: g.packed_length) for pair in zip(train.groups, answers, strict=True)]
    return _Teaching(
        longer if share else train.groups,
        Sampled(math.ceil(share * steps * settings.step_groups), cap, min(size, own), mean_prompt)
        if share
        else None,
        Sampled(checked, cap, min(size, held_out), mean_prompt) if held_out else None,
    )


def _has_reference(settings: TrainingSettings) -> bool:
    return isinstance(settings, DPOSettings) and any(map(needs_reference, settings.weights))


def _rhythm(settings: TrainingSettings, steps: int, validation_tokens: float) -> JsonObject:
    """How often is evaluated and saved, as training/loop.py does."""
    interval = settings.evaluation_interval or max(1, steps // 10)
    saved = settings.checkpoint_interval or interval
    return {
        "evaluations": evaluations_in(steps, interval),
        "validation_tokens": validation_tokens,
        "checkpoints": (steps - 1) // saved,
    }


def _on_policy_work(
    name: str,
    method: str,
    settings: OnPolicySettings,
    judged: bool,
    train: Rows,
    validation: Rows,
    has_pairs: bool,
) -> StageWork:
    k, cap = settings.samples, settings.sampling.max_new_tokens
    fixed, prompts = False, train.count
    every_step = 0  # passes of the reference in the loss itself
    if isinstance(settings, GRPOSettings):
        every_step = settings.kl == "exact" and settings.kl_coefficient > 0
        if settings.rollouts == "fixed":
            fixed, prompts = True, min(settings.fixed_prompts, train.count)
    steps = total_steps(settings, prompts) * (1 if settings.max_steps else settings.updates_per_batch)
    drawn = prompts if fixed else math.ceil(steps / settings.updates_per_batch) * settings.step_groups
    groups = [_sampled_group(g, k, cap) for g in train.groups]
    passes = _passes(groups, settings, steps)
    step_tokens = _step_tokens(passes)
    rhythm = _rhythm(settings, steps, validation.tokens if has_pairs else 0.0)
    held_out = min(settings.validation_prompts, validation.count)
    mean_prompt = sum(len(g.prompt) for g in train.groups) / len(train.groups)
    size = settings.sampling.batch_size
    together = min(size, (prompts if fixed else settings.step_groups) * k)
    scored = rhythm["evaluations"] * held_out
    reads = METHODS[method].method.models_read  # type: ignore[attr-defined]
    return StageWork(
        name, method, settings, prompts, steps,
        step_tokens=step_tokens,
        largest=_largest(passes),
        several_passes=any(len(step) > 1 for step in passes),
        example=passes[0][0],
        reference_tokens=validation.tokens if has_pairs else 0.0,
        held_tokens=train.tokens + validation.tokens,
        rollouts=Sampled(drawn * k, cap, together, mean_prompt, k),
        validation_samples=Sampled(scored, cap, min(size, held_out), mean_prompt) if held_out else None,
        reward_calls=drawn * k + scored,
        judge_calls=scored if judged else 0,
        forward_tokens=step_tokens * (reads * drawn / settings.step_groups + every_step * steps),
        **rhythm,
    )  # fmt: skip


def _round_work(name: str, settings: OnlineDPOSettings, splits: Splits, chat: ChatFormat) -> StageWork:
    """A round: every prompt gives a pair, and its completions are as long as the cap."""
    k, cap = settings.samples, settings.sampling.max_new_tokens
    prompts = encoded(splits.train, chat, "none")
    if not prompts.groups:
        raise TrimtabError(f"{name}: no training row is left after truncation. Raise data.max_length.")
    count = prompts_a_round(settings, prompts.count)
    pairs = Rows([_sampled_group(g, 2, cap) for g in prompts.groups], count)
    has_pairs = all(record.is_pair for record in splits.validation)
    validation = encoded(splits.validation, chat, OnlineDPO.completions_of(settings)) if has_pairs else Rows([], 0)
    steps = total_steps(settings, count)
    passes = _passes(pairs.groups, settings, steps)
    mean_prompt = sum(len(g.prompt) for g in prompts.groups) / len(prompts.groups)
    held = pairs.tokens + validation.tokens
    return StageWork(
        name, NAME, settings, count, steps,
        step_tokens=_step_tokens(passes),
        largest=_largest(passes),
        several_passes=any(len(step) > 1 for step in passes),
        example=passes[0][0],
        reference_tokens=held if _has_reference(settings) else 0.0,
        held_tokens=held,
        rollouts=Sampled(count * k, cap, min(settings.sampling.batch_size, min(count, CHUNK) * k), mean_prompt, k),
        reward_calls=count * k,
        **_rhythm(settings, steps, validation.tokens),
    )  # fmt: skip


def _penalty(settings: SFTSettings, steps: int, train: Rows) -> Sampled | None:
    penalty = settings.length_penalty
    if penalty is None:
        return None
    rows = settings.step_groups * penalty.paths
    mean_prompt = sum(len(g.prompt) for g in train.groups) / len(train.groups)
    return Sampled(
        math.ceil(steps / penalty.interval) * rows,
        penalty.max_new_tokens,
        min(rows, 128),
        mean_prompt,
        penalty.paths,
    )


def _sampled_group(group: CompletionGroup, k: int, cap: int) -> CompletionGroup:
    """A group as it is once it is sampled: k completions as long as the cap."""
    return CompletionGroup(group.prompt, ((group.prompt[-1],) * cap,) * k, group.index)


def _passes(groups: Sequence[CompletionGroup], settings: TrainingSettings, steps: int) -> list[list[Pass]]:
    """The passes of each of the first steps."""
    looked = range(min(steps, STEPS_LOOKED_AT))
    drawn = (groups_of_step(groups, step, settings.step_groups, settings.seed) for step in looked)
    return [cut_into_passes(step, settings.pass_tokens) for step in drawn]


def _step_tokens(passes: list[list[Pass]]) -> float:
    return sum(_tokens(members) for step in passes for members in step) / len(passes)


def _largest(passes: list[list[Pass]]) -> Pass:
    """Of the steps after the first, which has no moments yet."""
    return max((members for step in passes[1:] or passes for members in step), key=_tokens)


def _tokens(members: Sequence[CompletionGroup]) -> int:
    return sum(group.packed_length for group in members)
