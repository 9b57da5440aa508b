"""A tabular policy whose sequences can all be listed, so that expectations are sums.

Tokens 0 … V−2 are content, V−1 is the stop token; a sequence ends with it or at CAP tokens. theta holds a row
of logits for each content prefix. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

CAP, VOCABULARY = 3, 3
STOP = VOCABULARY - 1
PREFIXES = [p for n in range(CAP) for p in product(range(STOP), repeat=n)]
PLACE = {prefix: i for i, prefix in enumerate(PREFIXES)}
Sequence = tuple[int, ...]
SEQUENCES: list[Sequence] = [
    *((*p, STOP) for n in range(CAP) for p in product(range(STOP), repeat=n)),
    *product(range(STOP), repeat=CAP),
]
PATHS: list[Sequence] = list(product(range(STOP), repeat=CAP))
"""Content paths: no stop token is drawn, so all have the cap's length."""


def table(seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    theta = scale * torch.randn(len(PREFIXES), VOCABULARY, generator=generator, dtype=torch.float64)
    return theta.requires_grad_()


def token_logps(theta: Tensor, sequence: Sequence) -> Tensor:
    """log π of each token: [T]"""
    rows = torch.log_softmax(theta[[PLACE[sequence[:t]] for t in range(len(sequence))]], dim=-1)
    return rows.gather(1, torch.tensor(sequence)[:, None])[:, 0]


def stop_logps(theta: Tensor, sequence: Sequence) -> Tensor:
    return torch.log_softmax(theta[[PLACE[sequence[:t]] for t in range(len(sequence))]], dim=-1)[:, STOP]


def kl_by_token(theta: Tensor, reference: Tensor, sequence: Sequence) -> Tensor:
    """KL(π‖π_ref) over the vocabulary at each step: [T]"""
    places = [PLACE[sequence[:t]] for t in range(len(sequence))]
    p, q = torch.log_softmax(theta[places], -1), torch.log_softmax(reference[places], -1)
    return (p.exp() * (p - q)).sum(-1)


def probability(theta: Tensor, sequence: Sequence) -> Tensor:
    return token_logps(theta, sequence).sum().exp()


def path_probability(theta: Tensor, path: Sequence) -> float:
    """Of a content path under the distribution renormalised without the stop token."""
    content = token_logps(theta, path) - torch.log1p(-stop_logps(theta, path).exp())
    return float(content.sum().exp())


def expectation(theta: Tensor, value: Callable[[Sequence], float | Tensor]) -> Tensor:
    """Σ_y π(y) value(y), with gradient."""
    return torch.stack([probability(theta, y) * value(y) for y in SEQUENCES]).sum()


def gradient(loss: Tensor, theta: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, theta)
    return found


def mean_gradient(
    theta: Tensor,
    draws: list[Sequence],
    weights: list[float],
    k: int,
    loss: Callable[[tuple[Sequence, ...]], Tensor],
) -> tuple[Tensor, float]:
    """The exact mean of an estimator's gradient over all k-tuples of draws, and its total variance."""
    mean, square = torch.zeros_like(theta), 0.0
    for places in product(range(len(draws)), repeat=k):
        weight = 1.0
        for place in places:
            weight *= weights[place]
        found = gradient(loss(tuple(draws[i] for i in places)), theta)
        mean += weight * found
        square += weight * float((found**2).sum())
    return mean, square - float((mean**2).sum())
