"""Losses on preference pairs: four tensors in, losses and implicit rewards out.

To add a loss: one function with the signature of `dpo`, one entry in LOSSES, one test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PreferenceLoss(NamedTuple):
    """losses: [P], one per pair, with gradient. rewards: [P] each, detached, in nats times beta."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = −log σ(β [log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)])

    Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7. All inputs: [P], summed over completion tokens.
    beta > 0 weighs the implicit KL to the reference. Equal models give ln 2 and rewards of 0.
    """
    shapes = {t.shape for t in (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)}
    if len(shapes) != 1 or chosen_logps.dim() != 1:
        raise ValueError(f"expected four tensors [P], got {sorted(map(tuple, shapes))}")
    chosen_logratios = chosen_logps - ref_chosen_logps
    rejected_logratios = rejected_logps - ref_rejected_logps
    losses = -F.logsigmoid(beta * (chosen_logratios - rejected_logratios))
    return PreferenceLoss(losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach())


LOSSES: dict[str, Callable[..., PreferenceLoss]] = {"dpo": dpo}
"""Name -> loss: what the setting `loss` accepts."""
