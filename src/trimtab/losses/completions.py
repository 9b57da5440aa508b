"""Losses on completions that are not in pairs: a ranking of a whole group, labels of single ones, imitation.

The same manners as in losses/preference.py. Dimension suffixes: _C completions, of all groups one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor


class CompletionLoss(NamedTuple):
    """The losses of completions, and their implicit rewards.

    losses: with gradient; see each function for what they are one of. rewards: [C], detached.
    """

    losses: Tensor
    rewards: Tensor


def ranking(logps_C: Tensor, ref_logps_C: Tensor, sizes: Sequence[int], *, beta: float) -> CompletionLoss:
    """L = −Σ_{k=1}^{K} [β ρ_k − log Σ_{j ≥ k} exp(β ρ_j)], y_1 the best, y_K the worst

    Plackett-Luce: Rafailov et al. 2023 (arXiv 2305.18290), Eq. 20; for K = 2 it is DPO. logps_C, ref_logps_C:
    [C], a group's from best to worst. sizes: completions of each group, adding up to C. losses: [G], one a group.
    """
    if logps_C.shape != ref_logps_C.shape or logps_C.dim() != 1 or sum(sizes) != logps_C.numel():
        raise ValueError(
            f"expected two tensors [C] of {sum(sizes)}, got {tuple(logps_C.shape)}, {tuple(ref_logps_C.shape)}"
        )
    rewards_C = beta * (logps_C - ref_logps_C)
    # The rest of the ranking from each place on: a cumulative logsumexp from the end.
    losses = [(r.flip(0).logcumsumexp(0) - r.flip(0)).sum() for r in torch.split(rewards_C, list(sizes))]
    return CompletionLoss(torch.stack(losses), rewards_C.detach())


def kto(
    logps_C: Tensor,
    ref_logps_C: Tensor,
    labels_C: Tensor,
    reference_point: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> CompletionLoss:
    """L = λ_D [1 − σ(β (ρ − z₀))] where desirable, λ_U [1 − σ(β (z₀ − ρ))] where not

    Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 7 and 8. logps_C, ref_logps_C: [C]; labels_C: [C] boolean;
    reference_point: z₀ ≥ 0, a scalar without gradient: the mean of ρ over prompts with completions of other
    prompts, not below 0. losses: [C].
    """
    if not logps_C.shape == ref_logps_C.shape == labels_C.shape or logps_C.dim() != 1:
        shapes = [tuple(t.shape) for t in (logps_C, ref_logps_C, labels_C)]
        raise ValueError(f"expected three tensors [C], got {shapes}")
    logratios_C = logps_C - ref_logps_C
    above_C = beta * (logratios_C - reference_point.detach())
    desirable_C = desirable_weight * (1 - torch.sigmoid(above_C))
    undesirable_C = undesirable_weight * (1 - torch.sigmoid(-above_C))
    return CompletionLoss(torch.where(labels_C, desirable_C, undesirable_C), beta * logratios_C.detach())


def imitation(chosen_logps: Tensor, step_chosen_tokens: float, step_groups: float) -> Tensor:
    """−log π(y_w|x), SFT's loss as a part of a sum of losses: [P].

    Scaled so that its mean over the step's groups is nats a token of the step's chosen completions, as SFT's is.
    """
    return -chosen_logps * (step_groups / step_chosen_tokens)
