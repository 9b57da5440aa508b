"""Log-probabilities of completion tokens without ever holding [M, V].

The vocabulary projection runs over slices of tokens. The first slices are kept for the backward pass, within
a bound; the others are computed again there, one at a time. Slices of tokens, not of the vocabulary: adding
slices of the vocabulary in bf16 biases training.

Dimension suffixes: _M completion tokens, _S tokens of a slice, _V vocabulary, _D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trimtab.models.log_softmax import HeadLogSoftmax, LogSoftmax

Head = Callable[[Tensor], Tensor]
Divergence = Callable[[Tensor, Tensor], Tensor]
"""(log π, log π_ref), float32 [S, V] each → a number for each token, [S]."""
SLICE_ENTRIES = 2**24
"""Entries of one slice's float32 logits: 64 MiB."""
KEPT_ENTRIES = 2**25
"""Entries of the slices that a pass keeps for its backward pass: 128 MiB. A large vocabulary's projection is the
costliest product of a small model; what is kept is not computed twice."""


def slice_length(vocabulary: int) -> int:
    """How many tokens' logits are computed at once: as many as SLICE_ENTRIES holds, 16 at least."""
    return max(16, SLICE_ENTRIES // max(vocabulary, 1))


class TokenStatistics(NamedTuple):
    """Of each prediction, float32 [M]. logps: of the target. entropy: nats, detached. stop_logps: log of the
    stop tokens' total probability. kl: KL(π‖π_ref), or another divergence, over the vocabulary, nats. None where
    not asked for.
    values: of a value head, where the policy has one. logps_at_one: of the target at temperature 1."""

    logps: Tensor
    entropy: Tensor | None = None
    stop_logps: Tensor | None = None
    kl: Tensor | None = None
    values: Tensor | None = None
    logps_at_one: Tensor | None = None


def kl_to_reference(logps_SV: Tensor, reference_SV: Tensor) -> Tensor:
    """KL(π‖π_ref) of each token's distribution, in nats: [S, V], [S, V] → [S]."""
    return (logps_SV.exp() * (logps_SV - reference_SV)).sum(-1)


class StatisticsRequest(NamedTuple):
    """What is computed beside the targets' log-probabilities.

    stops: token ids [n], for stop_logps. temperature: [M], all logits are divided by it. reference: the
    reference's head and its hidden states [M, D], for the exact divergence.
    """

    entropy: bool = False
    stops: Tensor | None = None
    temperature: Tensor | None = None
    reference: tuple[Head, Tensor] | None = None
    divergence: Divergence = kl_to_reference

    def part(self, lo: int, hi: int) -> StatisticsRequest:
        """The same for a slice of the tokens."""
        return self._replace(
            temperature=None if self.temperature is None else self.temperature[lo:hi],
            reference=None if self.reference is None else (self.reference[0], self.reference[1][lo:hi]),
        )


def _slice(head: Head, hidden_SD: Tensor, target_S: Tensor, request: StatisticsRequest) -> TokenStatistics:
    """log softmax(head(h) / T)[target], and what else is asked for: [S] each"""
    logits_SV = head(hidden_SD).float()
    if request.reference is not None:
        return _with_divergence(logits_SV, target_S, request, request.reference)
    if logits_SV.untyped_storage().data_ptr() == hidden_SD.untyped_storage().data_ptr():
        logits_SV = logits_SV.clone()  # a family that gives logits instead of hidden states: they are not ours
    trains = torch.is_grad_enabled() and logits_SV.requires_grad
    logps_S, entropy_S, stop_logps_S = LogSoftmax.apply(  # type: ignore[no-untyped-call]
        logits_SV, target_S, request.temperature, request.stops, request.entropy, trains
    )
    return TokenStatistics(logps_S, entropy_S, stop_logps_S)


def _with_divergence(
    logits_SV: Tensor, target_S: Tensor, request: StatisticsRequest, reference: tuple[Head, Tensor]
) -> TokenStatistics:
    """The same with the divergence from the reference's distribution, whose gradient runs through all of π."""
    if request.temperature is not None:
        logits_SV = logits_SV / request.temperature[:, None]
    log_z_S = torch.logsumexp(logits_SV, dim=-1)
    logps_S = logits_SV.gather(-1, target_S[:, None])[:, 0] - log_z_S
    entropy_S = stop_logps_S = None
    if request.entropy:
        # Only ever logged: no gradient, and so no second [S, V] kept for one.
        with torch.no_grad():
            entropy_S = log_z_S - (torch.softmax(logits_SV, dim=-1) * logits_SV).sum(-1)
    if request.stops is not None:
        stop_logps_S = torch.logsumexp(logits_SV[:, request.stops], dim=-1) - log_z_S
    with torch.no_grad():
        reference_head, reference_SD = reference
        reference_SV = reference_head(reference_SD).float()
        if request.temperature is not None:
            reference_SV = reference_SV / request.temperature[:, None]
    # Of one family, models of several sizes pad their embeddings differently: no token is behind the shorter.
    width = min(logits_SV.shape[-1], reference_SV.shape[-1])
    reference_SV = torch.log_softmax(reference_SV[:, :width], dim=-1)
    whole = width == logits_SV.shape[-1]
    logps_SV = logits_SV - log_z_S[:, None] if whole else torch.log_softmax(logits_SV[:, :width], dim=-1)
    return TokenStatistics(logps_S, entropy_S, stop_logps_S, request.divergence(logps_SV, reference_SV))


def token_logps(
    head: Head,
    hidden_MD: Tensor,
    target_M: Tensor,
    vocabulary: int,
    request: StatisticsRequest | None = None,
    matrix: Tensor | None = None,
) -> TokenStatistics:
    """Log-probability of each target and, on request, more of each prediction.

    head: hidden states [S, D] -> logits [S, V]; whatever a model does to its logits (soft cap, scale,
    bias, an adapter) happens in it. matrix: [V, D], where the head is the product with it, in float32, and nothing
    else.
    """
    request = request or StatisticsRequest()
    step = slice_length(vocabulary)
    kept = max(1, KEPT_ENTRIES // (step * vocabulary))
    if target_M.numel() * vocabulary <= max(KEPT_ENTRIES, step * vocabulary):
        kept = -(-target_M.numel() // step)
    if matrix is not None and torch.is_grad_enabled() and request.reference is None and target_M.numel():
        logps_M, entropy_M, stop_logps_M = HeadLogSoftmax.apply(  # type: ignore[no-untyped-call]
            hidden_MD, matrix, target_M, request.temperature, request.stops, request.entropy, (step, kept)
        )
        return TokenStatistics(logps_M, entropy_M, stop_logps_M)
    parts: list[TokenStatistics] = []
    for i, lo in enumerate(range(0, target_M.numel(), step)):
        hi = lo + step
        args = (head, hidden_MD[lo:hi], target_M[lo:hi], request.part(lo, hi))
        if torch.is_grad_enabled() and i >= kept:
            parts.append(checkpoint(_slice, *args, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_slice(*args))

    def joined(name: str) -> Tensor | None:
        column = [getattr(part, name) for part in parts]
        return None if column[0] is None else torch.cat(column)

    entropy = joined("entropy")
    return TokenStatistics(
        torch.cat([part.logps for part in parts]),
        None if entropy is None else entropy.detach(),
        joined("stop_logps"),
        joined("kl"),
    )
