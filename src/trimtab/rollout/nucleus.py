"""Nucleus sampling: only the likeliest tokens, up to a share of probability. Holtzman et al. 2020 (arXiv
1904.09751), section 3.1. And top-k sampling: only so many. Fan et al. 2018 (arXiv 1805.04833), section 5.1.

Dimension suffixes: _B rows, _V vocabulary, _K the likeliest tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.devices import in_float64

LIKELIEST = 64
"""Tokens that are sorted first: they nearly always hold the nucleus, and sorting all is slow."""


def likeliest(logp_BV: Tensor, top_k: int) -> Tensor:
    """The log-probabilities of the top_k likeliest tokens, normalised, with −∞ for all others. Of equally likely
    tokens at the edge all stay, as in transformers."""
    if top_k >= logp_BV.shape[-1]:
        return logp_BV
    least_B1 = logp_BV.topk(top_k, dim=-1).values[:, -1:]
    return torch.log_softmax(logp_BV.masked_fill(logp_BV < least_B1, -torch.inf), dim=-1)


def nucleus(logp_BV: Tensor, top_p: float) -> Tensor:
    """The log-probabilities with −∞ for all tokens outside the nucleus, the fewest whose probabilities reach top_p;
    the likeliest is always in it. What is left is not normalised. Of equally likely tokens at its edge all stay."""
    least_B = _least(logp_BV, top_p, min(LIKELIEST, logp_BV.shape[-1]))
    return logp_BV.masked_fill(logp_BV < least_B[:, None], -torch.inf)


def _least(logp_BV: Tensor, top_p: float, count: int) -> Tensor:
    """The log-probability of the least likely token of each row's nucleus, [B]."""
    best_BK = logp_BV.topk(count, dim=-1).values
    probability_BK = in_float64(best_BK).exp()
    before_BK = probability_BK.cumsum(-1) - probability_BK
    last_B = ((before_BK < top_p).sum(-1) - 1).clamp_(min=0)
    least_B = best_BK.gather(1, last_B[:, None].to(best_BK.device))[:, 0]
    beyond_B = (before_BK[:, -1] + probability_BK[:, -1] < top_p).to(best_BK.device)
    if count < logp_BV.shape[-1] and bool(beyond_B.any()):
        least_B[beyond_B] = _least(logp_BV[beyond_B], top_p, logp_BV.shape[-1])
    return least_B
