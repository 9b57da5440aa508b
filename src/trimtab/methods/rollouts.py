"""Rollouts: completions of the policy's own, with their rewards, advantages and log-probabilities.

In a step of GRPO or PPO data flows policy → rollout → rewards → advantages → loss → step; this is the part before
the loss.

Dimension suffixes: _M completion tokens of a group.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from trimtab.advantages import group_advantages
from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Record, columns_of
from trimtab.losses.policy_gradient import effective_sample_size
from trimtab.notices import warn
from trimtab.rewards.base import Reward, Scored
from trimtab.rollout.sampler import Sample

Values = dict[str, tuple[float, float]]
"""Metrics: name -> (sum, weight)."""


@dataclass
class Rollout:
    """A group of scored completions of the policy's, and what its loss needs beside a forward pass.

    advantages: one a completion. old_logps: of the policy that sampled, at the temperature that is optimised;
    sampler_logps: of the distribution that the tokens were drawn from; ref_logps: of the reference. float32 [M].
    """

    tensors: ClassVar[tuple[str, ...]] = ("old_logps", "sampler_logps", "ref_logps", "temperatures")

    group: CompletionGroup
    advantages: list[float]
    old_logps: Tensor
    sampler_logps: Tensor
    ref_logps: Tensor
    temperatures: Tensor

    @classmethod
    def of_samples(
        cls,
        one: Scoring,
        kept: Sequence[int],
        advantages: list[float],
        old: Sequence[Tensor],
        ref_logps: Sequence[Tensor],
        **more: Tensor,
    ) -> Self:
        """Of a group's samples at the places `kept`. advantages: of the kept; old, ref_logps: of all samples."""
        samples = [one.samples[i] for i in kept]
        return cls(
            replace(one.group, completions=tuple(s.tokens for s in samples), truncated=(), scores=None),
            advantages,
            torch.cat([old[i] for i in kept]),
            torch.cat([torch.tensor(s.logps) for s in samples]),
            torch.cat([ref_logps[i] for i in kept]),
            torch.cat([torch.full((len(s.tokens),), s.temperature) for s in samples]),
            **more,
        )

    def state(self) -> dict[str, Any]:
        """As JSON, exactly: a float32 is a float64."""
        group = self.group
        tensors = {name: getattr(self, name).tolist() for name in self.tensors}
        kept = {"prompt": group.prompt, "completions": group.completions, "index": group.index}
        return {**kept, "advantages": self.advantages, **tensors}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        completions = tuple(map(tuple, state["completions"]))
        group = CompletionGroup(tuple(state["prompt"]), completions, state["index"])
        return cls(group, state["advantages"], **{name: torch.tensor(state[name]) for name in cls.tensors})


ROUNDING = 1e-4
"""Nats a sequence: a difference in k1 below it, beside equal rewards, is the sampler's rounding."""
DIFFERENCE = "sampling/sampling_logp_difference"


class Scoring(NamedTuple):
    """What became of a group's samples. scored: one a sample."""

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
    """One call of the reward for all samples. records: where each group's index points."""
    texts = [[sample_text(chat, one) for one in several] for several in samples]
    rows = [records[group.index] for group, several in zip(groups, samples, strict=True) for _ in several]
    found = reward.scored(
        [row.prompt for row in rows],
        [text for several in texts for text in several],
        completion_ids=[one.tokens for several in samples for one in several],
        columns=columns_of(rows, records),
    )
    if len(found) != len(rows):
        raise ValueError(f"reward {reward.name}: {len(found)} scores for {len(rows)} completions")
    out, place = [], 0
    for group, several, written in zip(groups, samples, texts, strict=True):
        out.append(Scoring(group, list(several), written, found[place : place + len(several)]))
        place += len(several)
    return out


def sample_text(chat: ChatFormat, sample: Sample) -> str:
    """Without its stop token, as evaluation decodes."""
    tokens = sample.tokens[:-1] if sample.finish == "stop" else sample.tokens
    return str(chat.tokenizer.decode(list(tokens), skip_special_tokens=True))


class Shaped(NamedTuple):
    """rollout: None where none of the group's samples is trained on. advantages: one a sample."""

    rollout: Rollout | None
    advantages: tuple[float | None, ...]
    equal: bool


def shape(
    one: Scoring,
    old: Sequence[Tensor],
    ref_logps: Sequence[Tensor],
    objective: str,
    kl_coefficient: float,
    mask_cut: bool,
) -> Shaped:
    """A group's rewards -> its rollout, of the completions that have an advantage.

    old, ref_logps: of each sample, by the policy that sampled and by the reference, at the temperature that
    is optimised. kl_coefficient: of k1 in the reward. mask_cut: completions cut at the cap keep their reward
    in the baseline, and are not trained on.
    """
    raw = [scored.score for scored in one.scored]
    kl = [float((o.double() - r.double()).sum()) for o, r in zip(old, ref_logps, strict=True)]
    rewards = [
        None if r is None else r - kl_coefficient * k if kl_coefficient else r for r, k in zip(raw, kl, strict=True)
    ]
    known = [r for r in raw if r is not None]
    equal = len(known) > 1 and min(known) == max(known)
    costs = [k for k, r in zip(kl, raw, strict=True) if r is not None]
    if equal and max(costs) - min(costs) < ROUNDING:
        rewards = list(raw)  # Adam would make a full step of the rounding between two engines
    found = group_advantages(rewards, objective)
    kept = [
        i
        for i, value in enumerate(found.values)
        if value is not None and not (mask_cut and one.samples[i].finish == "cap")
    ]
    if not kept:
        return Shaped(None, found.values, equal)
    rollout = Rollout.of_samples(one, kept, [float(found.values[i] or 0.0) for i in kept], old, ref_logps)
    return Shaped(rollout, found.values, equal)


def sample_metrics(scorings: Sequence[Scoring]) -> Values:
    """What was sampled, under TRL's names: docs/metrics.md has the formulas."""
    samples = [s for one in scorings for s in one.samples]
    lengths = [len(s.tokens) for s in samples]
    ended = [len(s.tokens) for s in samples if s.finish == "stop"]
    scored = [s for one in scorings for s in one.scored]
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


def own_metrics(reward: Reward, known: Mapping[str, Any]) -> Values:
    """What the reward function logged; under "reward_function/…" where the step has a metric of that name."""
    found: Values = {}
    for name, value in reward.take_metrics().items():
        taken = name in LOGGED or name in known or name.startswith(("loss/", "val/", "policy/", "clip_ratio/"))
        if taken:
            warn(f"log_metric({name!r}): a metric of the step has this name; logged as reward_function/{name}.")
        found[f"reward_function/{name}" if taken else name] = (value, 1.0)
    return found


def breakdown(scored: Sequence[Scored]) -> dict[str, list[float]]:
    """The numbers of each part of the reward, over the completions that have it."""
    parts: dict[str, list[float]] = {}
    for one in scored:
        for name, value in one.breakdown.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                parts.setdefault(name, []).append(float(value))
    return parts


def group_metrics(scorings: Sequence[Scoring], shaped: Sequence[Shaped]) -> Values:
    """reward_std: mean over groups, K − 1. frac_reward_zero_std: groups whose rewards are all equal."""
    spreads = []
    for one in scorings:
        known = [s.score for s in one.scored if s.score is not None]
        if len(known) > 1:
            spreads.append(statistics.stdev(known))
    out: Values = {
        "frac_reward_zero_std": (sum(s.equal for s in shaped), len(shaped)),
        "groups_dropped": (sum(all(a is None for a in s.advantages) for s in shaped), len(shaped)),
    }
    if spreads:
        out["reward_std"] = (sum(spreads), len(spreads))
    return out


def ratio_metrics(scorings: Sequence[Scoring], ref_logps: Sequence[Sequence[Tensor]]) -> Values:
    """kl: k1 of whole sequences, on samples at temperature 1; off policy the same number is `log_ratio`.
    effective_sample_size: of whole-sequence weights, as a share, where sampler and policy differ."""
    kl: list[float] = []
    policy, sampler, owner, samples = [], [], [], 0
    on_policy = True
    for one, references in zip(scorings, ref_logps, strict=True):
        for sample, reference in zip(one.samples, references, strict=True):
            ours = torch.tensor(sample.policy_logps)
            kl.append(float((ours.double() - reference.double()).sum()))
            policy.append(ours)
            sampler.append(torch.tensor(sample.logps))
            owner.append(torch.full((len(ours),), samples))
            samples += 1
            on_policy &= sample.temperature == 1
    out: Values = {"kl" if on_policy else "log_ratio": (sum(kl), len(kl))}
    policy_M, sampler_M = torch.cat(policy), torch.cat(sampler)
    if not on_policy or not torch.equal(policy_M, sampler_M):
        share = effective_sample_size(policy_M, sampler_M, torch.cat(owner), samples)
        out["sampling/effective_sample_size"] = (share, 1)
    return out


def engine_metrics(scorings: Sequence[Scoring], policy_logps: Sequence[Sequence[Tensor]]) -> Values:
    """How far an engine's log-probabilities are from the trainer's, by token, absolute, in nats.

    policy_logps: the trainer's, of each sample at its own temperature: those of other temperatures are not
    comparable.
    """
    pairs = [
        (torch.tensor(sample.logps), ours)
        for one, several in zip(scorings, policy_logps, strict=True)
        for sample, ours in zip(one.samples, several, strict=True)
    ]
    off_M = torch.cat([(theirs - ours).abs() for theirs, ours in pairs])
    return {
        f"{DIFFERENCE}/mean": (float(off_M.sum()), float(off_M.numel())),
        f"{DIFFERENCE}/max": (float(off_M.max()), 1),
    }


def table_rows(
    scorings: Sequence[Scoring], shaped: Sequence[Shaped], records: Sequence[Record]
) -> list[dict[str, Any]]:
    """For completions.jsonl: every sample with its reward, its parts and its advantage."""
    rows = []
    for one, found in zip(scorings, shaped, strict=True):
        for sample, text, scored, advantage in zip(
            one.samples, one.texts, one.scored, found.advantages, strict=True
        ):
            row = {
                "prompt": records[one.group.index].prompt_text,
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
