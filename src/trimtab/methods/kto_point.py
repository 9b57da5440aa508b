"""The reference point of KTO (Ethayarajh et al. 2024, arXiv 2402.01306, §4.1).

z₀ = max(0, mean of log π(y′|x) / π_ref(y′|x)), y′ the completions of the data's next other prompt. Where we depart:
it is of the whole optimizer step and all processes, and a prompt is mismatched with the same completions in every
epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate.utils import gather_object
from torch import Tensor

from trimtab.data.groups import CompletionGroup
from trimtab.errors import TrimtabError
from trimtab.notices import warn
from trimtab.rollout.logps import logps_of
from trimtab.training.stage_method import PolicyContext


def with_mismatched(context: PolicyContext, *splits: Sequence[CompletionGroup]) -> list[Sequence[CompletionGroup]]:
    """The splits' groups, each with a companion: its prompt with another's completions, and their ref_logps [M]."""
    companions = context.with_reference(*map(mismatch, splits))
    if len(kinds := {label for group in splits[0] for label in group.labels or ()}) == 1:
        kind = "desirable" if kinds.pop() else "undesirable"
        warn(f"loss kto: every completion is labelled {kind}: nothing to tell them from was given", about="labels")
    return [
        [replace(group, companion=other) for group, other in zip(split, others, strict=True)]
        for split, others in zip(splits, companions, strict=True)
    ]


def reference_point(context: PolicyContext, groups: Sequence[CompletionGroup]) -> Tensor:
    """z₀ of these groups, which processes share out: a scalar, in nats, without gradient."""
    acc = context.accelerator
    companions = [group.companion for group in groups if group.companion is not None]
    mine = companions[acc.process_index :: acc.num_processes]
    with acc.autocast():
        logps = logps_of(context.policy, mine, None, context.settings.pass_tokens, acc.device)
    ratios = [
        float((policy.double() - reference.double()).sum())
        for group, of_group in zip(mine, logps, strict=True)
        for policy, reference in zip(of_group, by_completion(group.columns["ref_logps"], group), strict=True)
    ]
    everyones = gather_object(ratios) if acc.num_processes > 1 else ratios
    return torch.tensor(max(0.0, sum(everyones) / len(everyones)))


def by_completion(values_M: Tensor, group: CompletionGroup) -> tuple[Tensor, ...]:
    """A group's values by token, [M], as one tensor for each completion."""
    return torch.split(values_M, [len(completion) for completion in group.completions])


def mismatch(groups: Sequence[CompletionGroup]) -> list[CompletionGroup]:
    """Each prompt with the completions of the next group whose prompt is another, cut where they would make the
    longest row of all."""
    mismatched = []
    longest = max((group.longest for group in groups), default=0)
    for i, group in enumerate(groups):
        after = (groups[(i + k) % len(groups)] for k in range(1, len(groups)))
        other = next((g for g in after if g.prompt != group.prompt), None)
        if other is None:
            raise TrimtabError("loss kto: its reference point needs rows of at least two different prompts.")
        rows = tuple(completion[: longest - len(group.prompt)] for completion in other.completions)
        mismatched.append(replace(group, completions=rows, truncated=(), scores=None, labels=None))
    return mismatched
