"""Losses of a reward model: scores of chosen and rejected completions in, one loss a pair out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.late import F

if TYPE_CHECKING:
    from torch import Tensor


def bradley_terry(chosen_scores: Tensor, rejected_scores: Tensor, margin: Tensor | None = None) -> Tensor:
    """L = −log σ(s_w − s_l − m)

    The negative log-likelihood of the preference under Bradley & Terry 1952; Ouyang et al. 2022
    (arXiv 2203.02155), Eq. 1, for one pair. m, 0 where there is none: by how much the chosen completion is
    to be ahead; Touvron et al. 2023 (arXiv 2307.09288), Eq. 2. All [P] -> [P]. Equal scores give ln 2.
    """
    _check(chosen_scores, rejected_scores, *(() if margin is None else (margin,)))
    ahead = chosen_scores - rejected_scores
    return -F.logsigmoid(ahead if margin is None else ahead - margin)


def center(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """(s_w + s_l)²

    Added to the loss with a small weight (0.01 in the paper), it fixes the constant that a difference of
    scores leaves open: a pair's mean is drawn to 0. Eisenstein et al. 2023 (arXiv 2312.09244). [P] -> [P].
    """
    _check(chosen_scores, rejected_scores)
    return (chosen_scores + rejected_scores).square()


def _check(*tensors: Tensor) -> None:
    if len({t.shape for t in tensors}) != 1 or tensors[0].dim() != 1:
        raise ValueError(f"expected tensors [P], got {[tuple(t.shape) for t in tensors]}")
