"""Log-probabilities of completion tokens without ever holding [M, V].

The vocabulary projection runs over slices of tokens and is recomputed in the backward pass, so that
memory is one slice's [slice, V]. Slices of tokens, not of the vocabulary: adding slices of the
vocabulary in bf16 biases training.

Dimension suffixes: _M completion tokens, _S tokens of a slice, _V vocabulary, _D hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
SLICE_ENTRIES = 2**25
"""Entries of one slice's float32 logits: 128 MiB."""


def slice_length(vocabulary: int) -> int:
    return max(16, SLICE_ENTRIES // max(vocabulary, 1))


def _slice(head: Head, hidden_SD: Tensor, target_S: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
    """log softmax(head(h))[target] and, on request, the entropy in nats: [S], [S]"""
    logits_SV = head(hidden_SD).float()
    log_z_S = torch.logsumexp(logits_SV, dim=-1)
    logps_S = logits_SV.gather(-1, target_S[:, None])[:, 0] - log_z_S
    if not with_entropy:
        return logps_S, torch.zeros_like(logps_S)
    # Only ever logged: no gradient, and so no second [S, V] kept for one.
    with torch.no_grad():
        entropy_S = log_z_S - (torch.softmax(logits_SV, dim=-1) * logits_SV).sum(-1)
    return logps_S, entropy_S


def token_logps(
    head: Head, hidden_MD: Tensor, target_M: Tensor, vocabulary: int, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target and, on request, the entropy of each prediction.

    head: hidden states [S, D] -> logits [S, V]; whatever a model does to its logits (soft cap, scale,
    bias, an adapter) happens in it. Returns float32 [M] and float32 [M] (detached) or None.
    """
    step = slice_length(vocabulary)
    logps: list[Tensor] = []
    entropies: list[Tensor] = []
    for lo in range(0, target_M.numel(), step):
        args = (head, hidden_MD[lo : lo + step], target_M[lo : lo + step], with_entropy)
        # A lone slice is within the memory bound as it is: recomputing it would buy nothing.
        if torch.is_grad_enabled() and target_M.numel() > step:
            logp, entropy = checkpoint(_slice, *args, use_reentrant=False, preserve_rng_state=False)
        else:
            logp, entropy = _slice(*args)
        logps.append(logp)
        entropies.append(entropy.detach())
    return torch.cat(logps), torch.cat(entropies) if with_entropy else None
