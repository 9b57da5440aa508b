"""One token a row, drawn by inverse CDF from the distribution that the row's logits, temperature and rules make.

Dimension suffixes: _B rows, _V vocabulary, _N blocks of it, _S tokens of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.rollout.nucleus import likeliest, nucleus

UNIT = 2.0**50
"""Probabilities become whole numbers of 1/UNIT before they are added up: their sums are exact, so that
they are the same in any order, and a token of probability 0 is never drawn."""
BLOCK, MANY = 256, 2**17
"""Tokens whose probabilities are added up together, where the vocabulary can be cut so and the rows hold many."""


@dataclass
class Temperatures:
    """Of a batch's rows. divide: [B, 1], 1 standing for 0, or None where all are 1; greedy: where they are
    0, [B] boolean, or None."""

    divide: Tensor | None
    greedy: Tensor | None

    @classmethod
    def of(cls, values: Sequence[float], device: torch.device) -> Temperatures:
        """Those of rows with these temperatures, 0 for greedy."""
        divide = [value or 1.0 for value in values]
        greedy = [value == 0 for value in values]
        return cls(
            torch.tensor(divide, device=device)[:, None] if set(divide) != {1.0} else None,
            torch.tensor(greedy, device=device) if any(greedy) else None,
        )

    def keep(self, index: Tensor) -> None:
        """Drops all rows but these."""
        self.divide = None if self.divide is None else self.divide[index]
        self.greedy = None if self.greedy is None else self.greedy[index]


@dataclass(frozen=True)
class Drawn:
    """One token a row, all [B]. log_kept: the log of what the excluded tokens leave at the row's temperature
    (at 1 where it is 0); None without exclusions."""

    token: Tensor
    logp: Tensor
    policy_logp: Tensor
    log_kept: Tensor | None


def invert_cdf(probability_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The tokens [B] at which the distribution functions pass the uniform numbers, of [0, 1), float64."""
    rows, vocabulary = probability_BV.shape
    count_BV = (probability_BV * UNIT).long()
    if probability_BV.numel() < MANY:
        return _passed(count_BV.cumsum(-1), uniform_B)[0][:, 0]
    # Sums are exact: those of blocks find the block, and only its own tokens are added up one by one.
    size = math.gcd(vocabulary, BLOCK)
    count_BNS = count_BV.view(rows, -1, size)
    cdf_BN = count_BNS.sum(-1).cumsum(-1)
    block_B1, mark_B1 = _passed(cdf_BN, uniform_B)
    cdf_BS = count_BNS[torch.arange(rows, device=block_B1.device), block_B1[:, 0]].cumsum(-1)
    cdf_BS += cdf_BN.gather(1, block_B1) - cdf_BS[:, -1:]
    return (block_B1 * size + torch.searchsorted(cdf_BS, mark_B1, right=True))[:, 0]


def _passed(cdf_BN: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where each function passes its uniform number's share of its whole, and that share: [B, 1] both."""
    # The product is below the sum, also after rounding, since uniform numbers are at most 1 - 2^-53. It is taken
    # where they are.
    mark_B1 = (uniform_B[:, None] * cdf_BN[:, -1:].to(uniform_B.device)).long().to(cdf_BN.device)
    return torch.searchsorted(cdf_BN, mark_B1, right=True), mark_B1


def draw(
    logits_BV: Tensor,
    uniform_B: Tensor,
    temperatures: Temperatures,
    excluded: Tensor | None,
    top_p: float = 1.0,
    top_k: int = 0,
) -> Drawn:
    """Draws from softmax(logits / T) without the excluded tokens, renormalised; the argmax where T is 0.

    logits_BV: any float type. excluded: token ids [n]. top_k: above 0, from so many of the likeliest tokens alone;
    top_p: below 1, from the nucleus of these; the log-probability is then still that of the whole distribution. At
    T = 0 the distribution is a point: logp is 0.
    """
    logits_BV = logits_BV.float()
    policy_BV = torch.log_softmax(logits_BV, dim=-1)
    logp_BV, log_kept_B = policy_BV, None
    if temperatures.divide is not None:
        logp_BV = torch.log_softmax(logits_BV / temperatures.divide, dim=-1)
    if excluded is not None:
        logp_BV = logp_BV.index_fill(1, excluded, -torch.inf)
        log_kept_B = torch.logsumexp(logp_BV, dim=-1)
        logp_BV = logp_BV - log_kept_B[:, None]
    drawn_BV = likeliest(logp_BV, top_k) if top_k else logp_BV
    drawn_BV = drawn_BV if top_p == 1 else nucleus(drawn_BV, top_p)
    token_B = invert_cdf(drawn_BV.exp(), uniform_B)
    greedy_B = temperatures.greedy
    if greedy_B is not None:
        token_B = torch.where(greedy_B, logp_BV.argmax(-1), token_B)
    policy_logp_B = logp_B = policy_BV.gather(1, token_B[:, None])[:, 0]
    if logp_BV is not policy_BV:
        logp_B = logp_BV.gather(1, token_B[:, None])[:, 0]
    if greedy_B is not None:
        logp_B = logp_B.masked_fill(greedy_B, 0.0)
    return Drawn(token_B, logp_B, policy_logp_B, log_kept_B)
