"""The divergence that distillation lowers: how far a student's distribution of a token is from its teacher's.

Dimension suffixes: _S tokens, _V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor


def generalised_jsd(student_SV: Tensor, teacher_SV: Tensor, beta: float) -> Tensor:
    """β KL(T ‖ M) + (1 − β) KL(S ‖ M), M = β T + (1 − β) S: the generalised Jensen-Shannon divergence.

    Agarwal et al. 2024 (GKD, arXiv 2306.13649), Eq. 1, P the teacher T, Q the student S. At its ends, where the
    formula is 0, the two KLs that it goes over to: β = 0 is KL(T ‖ S), which imitation lowers too; β = 1 is
    KL(S ‖ T), the reverse KL. Log-probabilities [S, V] → nats [S].
    """
    if beta == 0:
        return (teacher_SV.exp() * (teacher_SV - student_SV)).sum(-1)
    if beta == 1:
        return (student_SV.exp() * (student_SV - teacher_SV)).sum(-1)
    mixture_SV = torch.logaddexp(teacher_SV + math.log(beta), student_SV + math.log1p(-beta))
    of_teacher_S = (teacher_SV.exp() * (teacher_SV - mixture_SV)).sum(-1)
    of_student_S = (student_SV.exp() * (student_SV - mixture_SV)).sum(-1)
    return beta * of_teacher_S + (1 - beta) * of_student_S
