"""Losses of response-conditioned pairs: one completion under two prompts, beside the pair itself.

Cai et al. 2025 (arXiv 2502.00814): x is the prompt, x¹ the prompt with a length that y_w fails, x² with one that
y_l keeps to (data/conditions.py makes them). Where we depart: a row's three comparisons are one loss, their
weighted mean; the paper trains on the union of the pairs and the comparisons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.late import F, torch
from trimtab.losses.preference import PreferenceLoss, check, dpo

if TYPE_CHECKING:
    from torch import Tensor


def response_conditioned(
    pair_losses: Tensor, chosen: Tensor, failing: Tensor, keeping: Tensor, rejected: Tensor, *, balance: float = 1.0
) -> Tensor:
    """L = [L_pair − log σ(r(x, y_w) − r(x¹, y_w)) − λ log σ(r(x², y_l) − r(x, y_l))] / (2 + λ)

    Eq. 4 and 6, with the pair's own loss (Bradley-Terry) as a third comparison; λ ≥ 0 is `balance`. All [P] -> [P].
    Equal rewards give ln 2 where the pair's loss does.
    """
    check(pair_losses, chosen, failing, keeping, rejected)
    check_balance(balance)
    terms = pair_losses - F.logsigmoid(chosen - failing) - balance * F.logsigmoid(keeping - rejected)
    return terms / (2 + balance)


def check_balance(balance: float) -> None:
    """ValueError for a weight below 0."""
    if balance < 0:
        raise ValueError(f"balance must not be negative, got {balance}")


def length_margins(chosen: Tensor, failing: Tensor, keeping: Tensor, rejected: Tensor) -> Tensor:
    """By how much each prompt that suits a completion's length is ahead, detached: [2 P]."""
    return torch.cat([chosen - failing, keeping - rejected]).detach()


def rc_dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    failing_logps: Tensor,
    keeping_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    ref_failing_logps: Tensor,
    ref_keeping_logps: Tensor,
    *,
    beta: float,
    balance: float = 1.0,
) -> PreferenceLoss:
    """Rc-DPO: response_conditioned with r(x, y) = β log π(y|x)/π_ref(y|x), and DPO's loss for the pair.

    Eq. 8 is the two comparisons of prompts. In DPO's own pairs β log Z(x) cancels, since both have one prompt;
    between two prompts β log Z(x)/Z(x¹) is left, and the paper leaves it out, as we do here. failing: y_w after x¹;
    keeping: y_l after x². All inputs: [P], summed over completion tokens. Equal models give ln 2 and rewards of 0.
    """
    pair = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    rewards = (
        beta * (chosen_logps - ref_chosen_logps),
        beta * (failing_logps - ref_failing_logps),
        beta * (keeping_logps - ref_keeping_logps),
        beta * (rejected_logps - ref_rejected_logps),
    )
    losses = response_conditioned(pair.losses, *rewards, balance=balance)
    return pair._replace(losses=losses, length_margins=length_margins(*rewards))
