"""Advantages: from the rewards of a group to what each completion's log-probability is pushed by.

A completion without a reward has no advantage and leaves the baseline; it never counts as 0. A group
with fewer than two scored completions has no advantages at all.

To add one: a function of a group's scored rewards, an entry in ADVANTAGES, a test.

Dimension suffix: _K scored completions of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-4
"""Added to the standard deviation by group_normalised, as DeepSeekMath's implementations do."""


def leave_one_out(rewards_K: Tensor) -> Tensor:
    """A_i = R_i − mean_{j≠i} R_j = K/(K−1) · (R_i − mean R)

    Kool et al. 2019; Ahmadian et al. 2024 (RLOO, arXiv 2402.14740), Eq. 6; the course report's Eq. 6.
    The baseline does not depend on y_i, so the gradient is unbiased. [K] -> [K], K ≥ 2.
    """
    k = _group_size(rewards_K)
    return (rewards_K - rewards_K.mean()) * (k / (k - 1))


def mean_centred(rewards_K: Tensor) -> Tensor:
    """A_i = R_i − mean R. Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), Eq. 4.

    The baseline holds R_i itself: in expectation (K−1)/K of the gradient of leave_one_out. [K] -> [K].
    """
    _group_size(rewards_K)
    return rewards_K - rewards_K.mean()


def group_normalised(rewards_K: Tensor) -> Tensor:
    """A_i = (R_i − mean R) / (std R + 1e-4). DeepSeekMath's GRPO (Shao et al. 2024, arXiv 2402.03300), §4.1.2.

    std with K − 1, as in TRL. Dividing by it weighs groups of little spread up: biased, whatever K is
    (docs/methods/grpo.md works an example out). [K] -> [K].
    """
    _group_size(rewards_K)
    return (rewards_K - rewards_K.mean()) / (rewards_K.std() + EPSILON)


def ranking(rewards_K: Tensor) -> Tensor:
    """A_i = (wins_i − losses_i) / (K − 1): from −1, the worst, to 1, the best; ties share.

    The course report's §3.4, steps 3 and 4: higher probability to higher-ranked samples. [K] -> [K].
    """
    k = _group_size(rewards_K)
    return torch.sign(rewards_K[:, None] - rewards_K[None, :]).sum(1) / (k - 1)


def best_worst(rewards_K: Tensor) -> Tensor:
    """1 for the best, −1 for the worst, 0 for the others; ties share. All equal: 0. [K] -> [K]."""
    _group_size(rewards_K)
    best = (rewards_K == rewards_K.max()).to(rewards_K.dtype)
    worst = (rewards_K == rewards_K.min()).to(rewards_K.dtype)
    return best / best.sum() - worst / worst.sum()


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "leave_one_out": leave_one_out,
    "group_normalised": group_normalised,
    "mean_centred": mean_centred,
    "ranking": ranking,
    "best_worst": best_worst,
}
"""Name -> group objective: what the setting `objective` accepts."""


def _group_size(rewards_K: Tensor) -> int:
    if rewards_K.dim() != 1 or rewards_K.numel() < 2:
        raise ValueError(f"a group objective needs at least two rewards, got {tuple(rewards_K.shape)}")
    return rewards_K.numel()


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """values: one a completion, None where it has no reward. dropped: fewer than two had one. equal: no signal."""

    values: tuple[float | None, ...]
    dropped: bool
    equal: bool


def group_advantages(rewards: Sequence[float | None], objective: str) -> GroupAdvantages:
    """The advantages of one group, in float64. objective: a name in ADVANTAGES."""
    places = [i for i, reward in enumerate(rewards) if reward is not None]
    scored = [reward for reward in rewards if reward is not None]
    if not all(map(math.isfinite, scored)):
        raise ValueError("a reward is NaN or infinite; a failed reward is None")
    values: list[float | None] = [None] * len(rewards)
    if len(scored) < 2:
        return GroupAdvantages(tuple(values), dropped=True, equal=False)
    if min(scored) == max(scored):
        advantages = [0.0] * len(scored)  # exactly, whatever rounding a mean has
    else:
        advantages = ADVANTAGES[objective](torch.tensor(scored, dtype=torch.float64)).tolist()
    for place, value in zip(places, advantages, strict=True):
        values[place] = value
    return GroupAdvantages(tuple(values), dropped=False, equal=min(scored) == max(scored))
