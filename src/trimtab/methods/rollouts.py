"""Rollouts: completions of the policy's own, with their rewards, advantages and log-probabilities.

In a step of GRPO or PPO data flows policy → samples → rewards → advantages → loss → step; these are the pure
functions of the part before the loss. A rollout is a completion group whose columns hold what its loss needs
beside a forward pass: advantages [C]; old_logps, of the policy that sampled, at the temperature that is
optimised; sampler_logps, of the distribution that the tokens were drawn from; ref_logps, of the reference;
temperatures; all float32 [M].

Dimension suffixes: _M completion tokens of a group, _C its completions.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.advantages import group_advantages
from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Record, columns_of
from trimtab.json_types import JsonObject
from trimtab.losses.policy_gradient import effective_sample_size
from trimtab.notices import warn
from trimtab.rewards.base import Reward, Scored
from trimtab.rollout.sampler import Sample
from trimtab.training.step import Sums

ROUNDING = 1e-4
"""Nats a sequence: a difference in k1 below it, beside equal rewards, is the sampler's rounding."""
DIFFERENCE = "sampling/sampling_logp_difference"


class Scoring(NamedTuple):
    """A group's samples with their texts and scores, one of each a sample."""

    group: CompletionGroup
    samples: list[Sample]
    texts: list[str]
    scored: list[Scored]


def score_samples(
    reward: Reward,
    chat: ChatFormat,
    groups: Sequence[CompletionGroup],
    samples: Sequence[Sequence[Sample]],
    records: Sequence[Record],
) -> list[Scoring]:
    """Samples with their scores, by one call of the reward for all. records: where each group's index points."""
    texts = [[sample_text(chat, sample) for sample in of_group] for of_group in samples]
    rows = [records[group.index] for group, of_group in zip(groups, samples, strict=True) for _ in of_group]
    scored = reward.scored(
        [row.prompt for row in rows],
        [text for of_group in texts for text in of_group],
        completion_ids=[sample.tokens for of_group in samples for sample in of_group],
        columns=columns_of(rows, records),
    )
    if len(scored) != len(rows):
        raise ValueError(f"reward {reward.name}: {len(scored)} scores for {len(rows)} completions")
    out, place = [], 0
    for group, of_group, texts_of_group in zip(groups, samples, texts, strict=True):
        end = place + len(of_group)
        out.append(Scoring(group, list(of_group), texts_of_group, scored[place:end]))
        place = end
    return out


def sample_text(chat: ChatFormat, sample: Sample) -> str:
    """A sample's text without its stop token, as evaluation decodes."""
    tokens = sample.tokens[:-1] if sample.finish == "stop" else sample.tokens
    return str(chat.tokenizer.decode(list(tokens), skip_special_tokens=True))


def rollout_group(
    scoring: Scoring, kept: Sequence[int], advantages: Sequence[float], **by_sample: Sequence[Tensor]
) -> CompletionGroup:
    """The samples at the places `kept` as a group to train on.

    advantages: one for each kept sample. by_sample: further columns, a tensor of its tokens for each sample.
    """
    samples = [scoring.samples[i] for i in kept]
    group = replace(
        scoring.group, completions=tuple(sample.tokens for sample in samples), truncated=(), scores=None, columns={}
    )
    return group.with_columns(
        advantages=torch.tensor(list(advantages)),
        sampler_logps=torch.cat([torch.tensor(sample.logps) for sample in samples]),
        temperatures=torch.cat([torch.full((len(sample.tokens),), sample.temperature) for sample in samples]),
        **{name: torch.cat([values[i] for i in kept]) for name, values in by_sample.items()},
    )


def group_state(group: CompletionGroup) -> JsonObject:
    """A rollout as JSON, exactly: a float32 is a float64."""
    columns = {name: column.tolist() for name, column in group.columns.items()}
    return {"prompt": group.prompt, "completions": group.completions, "index": group.index, **columns}


def group_from_state(state: JsonObject) -> CompletionGroup:
    """The rollout that group_state wrote."""
    columns = {name: torch.tensor(state[name]) for name in state if name not in ("prompt", "completions", "index")}
    completions = tuple(map(tuple, state["completions"]))
    return CompletionGroup(tuple(state["prompt"]), completions, state["index"], columns=columns)


@dataclass(frozen=True)
class Rollouts:
    """A batch of rollouts of all processes, and what the main process writes down about its own samples."""

    groups: list[CompletionGroup]
    metrics: Sums
    rows: list[JsonObject]

    @property
    def completions(self) -> int:
        """How many completions are trained on, in all processes."""
        return sum(len(group.completions) for group in self.groups)

    @property
    def tokens(self) -> int:
        """How many completion tokens are trained on, in all processes."""
        return sum(group.completion_tokens for group in self.groups)


class GroupAdvantages(NamedTuple):
    """What each sample of a group is trained with.

    advantages: one for each sample, None where it has no reward. kept: the places of those that are trained on.
    equal: whether all rewards of the group are the same, so that nothing is learnt from it.
    """

    advantages: tuple[float | None, ...]
    kept: list[int]
    equal: bool


def kl_of_samples(policy_logps: Sequence[Tensor], ref_logps: Sequence[Tensor]) -> list[float]:
    """k1 = log π(y|x) − log π_ref(y|x) of each sample, in nats: its mean estimates the KL to the reference."""
    return [float((p.double() - r.double()).sum()) for p, r in zip(policy_logps, ref_logps, strict=True)]


def rewards_after_kl(scoring: Scoring, kl: Sequence[float], coefficient: float) -> list[float | None]:
    """R − λ · k1 of each sample; None where it has no score.

    Where all scores are equal, and their k1 within the sampler's rounding, the scores stay: an advantage of
    rounding alone would still be a full step for Adam.
    """
    scores = [scored.score for scored in scoring.scored]
    scored = [k for k, score in zip(kl, scores, strict=True) if score is not None]
    if not coefficient or (all_equal(scoring) and max(scored) - min(scored) < ROUNDING):
        return scores
    return [None if r is None else r - coefficient * k for r, k in zip(scores, kl, strict=True)]


def all_equal(scoring: Scoring) -> bool:
    """Whether a group has two scores or more, all of them the same."""
    scores = [scored.score for scored in scoring.scored if scored.score is not None]
    return len(scores) > 1 and min(scores) == max(scores)


def assign_advantages(
    scoring: Scoring, rewards: Sequence[float | None], objective: str, mask_cut: bool
) -> GroupAdvantages:
    """A group's rewards → its advantages. objective: a name in ADVANTAGES.

    mask_cut: completions cut at the cap keep their reward in the baseline, and are not trained on.
    """
    advantages = group_advantages(rewards, objective).values
    return GroupAdvantages(advantages, trained_on(scoring, advantages, mask_cut), all_equal(scoring))


def trained_on(scoring: Scoring, values: Sequence[float | None], mask_cut: bool) -> list[int]:
    """The places of the samples that have a value and, with mask_cut, were not cut at the cap."""
    return [
        place
        for place, (value, sample) in enumerate(zip(values, scoring.samples, strict=True))
        if value is not None and not (mask_cut and sample.finish == "cap")
    ]


def sample_metrics(scorings: Sequence[Scoring]) -> Sums:
    """What was sampled, under TRL's names: docs/metrics.md has the formulas."""
    samples = [s for scoring in scorings for s in scoring.samples]
    lengths = [len(s.tokens) for s in samples]
    ended = [len(s.tokens) for s in samples if s.finish == "stop"]
    scored = [s for scoring in scorings for s in scoring.scored]
    scores = [s.score for s in scored if s.score is not None]
    out: dict[str, tuple[float, float]] = {
        "completions/mean_length": (sum(lengths), len(lengths)),
        "completions/min_length": (min(lengths), 1),
        "completions/max_length": (max(lengths), 1),
        "completions/clipped_ratio": (sum(s.finish == "cap" for s in samples), len(samples)),
        "completions/terminated": (len(ended), len(samples)),
        "rewards/missing": (sum(s.score is None for s in scored), len(scored)),
    }
    if ended:
        out["completions/mean_terminated_length"] = (sum(ended), len(ended))
    if scores:
        out["reward"] = (sum(scores), len(scores))
    for name, values in breakdown(scored).items():
        out[f"rewards/{name}/mean"] = (sum(values), len(values))
        if len(values) > 1:
            out[f"rewards/{name}/std"] = (statistics.stdev(values), 1)
    return out


TAKEN = {"step", "prompt", "completion", "reward", "advantage", "tokens", "finish", "temperature", "reason"}
"""Columns of completions.jsonl; a reward's own of the same name gets a prefix."""
LOGGED = {
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "skipped_steps",
    "num_tokens",
    "seconds",
    "entropy",
}
"""Metrics of a step beside those of its samples."""


def own_metrics(reward: Reward, step_metrics: Sums) -> Sums:
    """What the reward function logged; under "reward_function/…" where the step has a metric of that name."""
    metrics: Sums = {}
    for name, value in reward.take_metrics().items():
        taken = (
            name in LOGGED or name in step_metrics or name.startswith(("loss/", "val/", "policy/", "clip_ratio/"))
        )
        if taken:
            warn(f"log_metric({name!r}): a metric of the step has this name; logged as reward_function/{name}.")
        metrics[f"reward_function/{name}" if taken else name] = (value, 1.0)
    return metrics


def breakdown(scored: Sequence[Scored]) -> dict[str, list[float]]:
    """The numbers of each part of the reward, over the completions that have it."""
    parts: dict[str, list[float]] = {}
    for completion in scored:
        for name, value in completion.breakdown.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                parts.setdefault(name, []).append(float(value))
    return parts


def group_metrics(scorings: Sequence[Scoring], assigned: Sequence[GroupAdvantages]) -> Sums:
    """How far the rewards of a group are apart.

    reward_std: mean over groups of the standard deviation, with K − 1. frac_reward_zero_std: share of groups
    whose rewards are all equal. groups_dropped: share of groups without an advantage.
    """
    spreads = []
    for scoring in scorings:
        scores = [s.score for s in scoring.scored if s.score is not None]
        if len(scores) > 1:
            spreads.append(statistics.stdev(scores))
    out: Sums = {
        "frac_reward_zero_std": (sum(a.equal for a in assigned), len(assigned)),
        "groups_dropped": (sum(all(v is None for v in a.advantages) for a in assigned), len(assigned)),
    }
    if spreads:
        out["reward_std"] = (sum(spreads), len(spreads))
    return out


def ratio_metrics(scorings: Sequence[Scoring], ref_logps: Sequence[Sequence[Tensor]]) -> Sums:
    """How far samples are from the reference, and how much they count.

    kl: k1 of whole sequences, on samples at temperature 1; off policy the same number is `log_ratio`.
    effective_sample_size: of whole-sequence weights, as a share, where sampler and policy differ.
    """
    kl: list[float] = []
    policy, sampler, owner, samples = [], [], [], 0
    on_policy = True
    for scoring, references in zip(scorings, ref_logps, strict=True):
        for sample, reference in zip(scoring.samples, references, strict=True):
            ours = torch.tensor(sample.policy_logps)
            kl.append(float((ours.double() - reference.double()).sum()))
            policy.append(ours)
            sampler.append(torch.tensor(sample.logps))
            owner.append(torch.full((len(ours),), samples))
            samples += 1
            on_policy &= sample.temperature == 1
    out: Sums = {"kl" if on_policy else "log_ratio": (sum(kl), len(kl))}
    policy_M, sampler_M = torch.cat(policy), torch.cat(sampler)
    if not on_policy or not torch.equal(policy_M, sampler_M):
        share = effective_sample_size(policy_M, sampler_M, torch.cat(owner), samples)
        out["sampling/effective_sample_size"] = (share, 1)
    return out


def engine_metrics(scorings: Sequence[Scoring], policy_logps: Sequence[Sequence[Tensor]] | None = None) -> Sums:
    """How far a sampler's log-probabilities are from the trainer's, by token, absolute, in nats.

    policy_logps: the trainer's, of each sample at its own temperature: those of other temperatures are not
    comparable. None: the sampler's word for them; nothing is said where it read both off the policy itself.
    """
    if policy_logps is None:
        if all(sample.logps is sample.tempered_logps for scoring in scorings for sample in scoring.samples):
            return {}
        policy_logps = [[torch.tensor(sample.tempered_logps) for sample in scoring.samples] for scoring in scorings]
    off_M = torch.cat(
        [
            (torch.tensor(sample.logps) - ours).abs()
            for scoring, of_group in zip(scorings, policy_logps, strict=True)
            for sample, ours in zip(scoring.samples, of_group, strict=True)
        ]
    )
    return {
        f"{DIFFERENCE}/mean": (float(off_M.sum()), float(off_M.numel())),
        f"{DIFFERENCE}/max": (float(off_M.max()), 1),
    }


def table_rows(
    scorings: Sequence[Scoring], advantages: Sequence[Sequence[float | None]], records: Sequence[Record]
) -> list[JsonObject]:
    """The rows of completions.jsonl: every sample with its reward, its parts and its advantage."""
    rows = []
    for scoring, of_group in zip(scorings, advantages, strict=True):
        members = zip(scoring.samples, scoring.texts, scoring.scored, of_group, strict=True)
        for sample, text, scored, advantage in members:
            row = {
                "prompt": records[scoring.group.index].prompt_text,
                "completion": text,
                "reward": scored.score,
                "advantage": advantage,
                "tokens": len(sample.tokens),
                "finish": sample.finish,
                "temperature": sample.temperature,
            }
            own = {f"rewards/{k}" if k in TAKEN else k: value for k, value in scored.breakdown.items()}
            rows.append(row | ({"reason": scored.reason} if scored.reason else {}) | own)
    return rows
