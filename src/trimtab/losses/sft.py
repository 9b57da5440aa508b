"""Supervised fine-tuning: the negative log-likelihood of completion tokens.

Source: Ouyang et al. 2022; Eq. 2 of the course report that this project grew out of. Where we
depart: the mean is over the whole optimizer step, all passes and processes, by tokens (default) or by
sequences (the report's Eq. 2), never a mean of means of uneven passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


Normalisation = Literal["tokens", "sequences"]


def sft(logps_M: Tensor, total: float) -> Tensor:
    """L = −Σ log π(y_t | x, y_<t) / total

    logps_M: float32 [M], log-probabilities of all completion tokens of this pass.
    total: of the whole optimizer step, its completion tokens or its sequences.
    """
    if logps_M.dim() != 1:
        raise ValueError(f"expected [M], got {tuple(logps_M.shape)}")
    return -logps_M.sum() / total
