"""Metrics over groups that are not trained on, in passes shared out among the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelerate import Accelerator
from accelerate.utils import gather_object

from trimtab.data.groups import CompletionGroup, PackedBatch, cut_into_passes, pack
from trimtab.progress import Progress
from trimtab.training.metrics import Means
from trimtab.training.step import Forward, Sums

EvaluateGroups = Callable[[Forward, PackedBatch], Sums]
"""(model, batch) → metrics of a pass over validation groups."""


def evaluate_groups(
    one_pass: EvaluateGroups,
    policy: Forward,
    groups: Sequence[CompletionGroup],
    token_budget: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Means of a pass's metrics over all groups, shared out among the processes."""
    if not groups:
        return {}
    means = Means()
    mine = list(groups[accelerator.process_index :: accelerator.num_processes])
    work = sum(group.packed_length for group in mine)
    with Progress("validation", len(mine), "groups", work=work) as progress:
        for members in cut_into_passes(mine, token_budget):
            means.add(one_pass(policy, pack(members).to(accelerator.device)))
            progress.advance(len(members), work=sum(group.packed_length for group in members))
    if accelerator.num_processes > 1:
        means = Means.merge(gather_object([means.sums]))
    return means.means()
