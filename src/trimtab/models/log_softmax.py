"""log softmax at the targets, in the memory of the logits: what a training step spends beside its products.

Dimension suffixes: _M completion tokens, _S tokens of a slice, _V vocabulary, _D hidden, _K stop tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

BLOCK_ENTRIES = 2**19
"""Entries that are worked on together on a CPU, 2 MiB: they stay near the core."""


class Statistics(NamedTuple):
    """Of each row: float32 [S]; entropy and stop_logps where asked for. stop_shares: [S, K], each stop token's
    share of their total."""

    logps: Tensor
    entropy: Tensor | None
    stop_logps: Tensor | None
    stop_shares: Tensor | None


def statistics_in_place(
    logits_SV: Tensor,
    target_S: Tensor,
    temperature_S: Tensor | None,
    stops: Tensor | None,
    entropy: bool,
    trains: bool,
) -> Statistics:
    """log softmax(logits / T) at the targets in few passes, and in the memory of the logits.

    A block of rows is small enough to stay in the processor's cache while it is divided, exponentiated and summed.
    logits_SV: float32, overwritten: where a gradient will be asked for (trains), with the probabilities, which are
    all that it needs.
    """
    rows, vocabulary = logits_SV.shape
    logps_S = logits_SV.new_empty(rows)
    entropy_S = logits_SV.new_empty(rows) if entropy else None
    stop_logps_S = stop_shares_SK = None
    if stops is not None:
        stop_logps_S, stop_shares_SK = logits_SV.new_empty(rows), logits_SV.new_empty(rows, len(stops))
    step = max(1, BLOCK_ENTRIES // vocabulary) if logits_SV.device.type == "cpu" else max(1, rows)
    powers = torch.empty_like(logits_SV[:step]) if entropy else None
    starts = range(0, rows, step)
    if isinstance(logits_SV, FakeTensor):
        starts = starts[:1]  # a plan counts memory: all blocks take the same
    for lo in starts:
        block = logits_SV[lo : lo + step]
        places = slice(lo, lo + len(block))
        if temperature_S is not None:
            block.div_(temperature_S[places, None])
        block.sub_(block.amax(-1, keepdim=True))
        picked = block.gather(-1, target_S[places, None])[:, 0]
        if stops is not None:
            stop_block = block[:, stops]
        if powers is None:
            total = block.exp_().sum(-1)
        else:
            power = torch.exp(block, out=powers[: len(block)])
            total = power.sum(-1)
        log_total = total.log()
        logps_S[places] = picked - log_total
        if powers is not None:
            entropy_S[places] = log_total - block.mul_(power).sum(-1) / total  # type: ignore[index]
        if trains:
            torch.div(block if powers is None else power, total[:, None], out=block)
        if stops is not None:
            log_stop = stop_block.logsumexp(-1)
            stop_logps_S[places] = log_stop - log_total  # type: ignore[index]
            stop_shares_SK[places] = (stop_block - log_stop[:, None]).exp()  # type: ignore[index]
    return Statistics(logps_S, entropy_S, stop_logps_S, stop_shares_SK)


def gradient_in_place(
    probability_SV: Tensor,
    target_S: Tensor,
    temperature_S: Tensor | None,
    stops: Tensor | None,
    stop_shares_SK: Tensor | None,
    grad_S: Tensor,
    stop_grad_S: Tensor | None,
) -> Tensor:
    """The gradient of the logits, [S, V], in the place of the probabilities.

    ∂ log π(y) / ∂ logits = onehot(y) − π, and ∂ log π(stops) / ∂ logits = π(· | stops) − π.
    """
    scale_S = 1.0 if temperature_S is None else 1.0 / temperature_S
    whole_S = grad_S if stop_grad_S is None else grad_S + stop_grad_S
    grad_SV = probability_SV.mul_((-whole_S * scale_S)[:, None])
    grad_SV.scatter_add_(1, target_S[:, None], (grad_S * scale_S)[:, None])
    if stops is not None and stop_grad_S is not None and stop_shares_SK is not None:
        grad_SV.index_add_(1, stops, stop_shares_SK * (stop_grad_S * scale_S)[:, None])
    return grad_SV


class LogSoftmax(torch.autograd.Function):
    """log softmax(logits / T) at the targets of logits that somebody else has computed."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_SV: Tensor,
        target_S: Tensor,
        temperature_S: Tensor | None,
        stops: Tensor | None,
        entropy: bool,
        trains: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """logits_SV: float32, overwritten. trains: whether a gradient will be asked for."""
        found = statistics_in_place(logits_SV, target_S, temperature_S, stops, entropy, trains)
        if trains:
            ctx.save_for_backward(logits_SV, target_S, temperature_S, stops, found.stop_shares)
        if found.entropy is not None:
            ctx.mark_non_differentiable(found.entropy)
        return found[:3]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_S, _, stop_grad_S = grads
        # In the place of the probabilities: a second backward pass finds them changed, and torch says so.
        probability_SV, target_S, temperature_S, stops, shares_SK = ctx.saved_tensors
        asked_S = None if stops is None else stop_grad_S
        grad_SV = gradient_in_place(probability_SV, target_S, temperature_S, stops, shares_SK, grad_S, asked_S)
        return grad_SV, None, None, None, None, None


class HeadLogSoftmax(torch.autograd.Function):
    """log softmax(h Wᵀ / T) at the targets, a slice of the tokens after the other, for a head that is one matrix.

    The gradient of the matrix is added up in one place, where a function for each slice would make one of the
    matrix's size for each. The first slices' probabilities are kept, the others' are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        target_M: Tensor,
        temperature_M: Tensor | None,
        stops: Tensor | None,
        entropy: bool,
        cut: tuple[int, int],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """hidden_MD, weight_VD: float32. cut: tokens of a slice, and the slices that are kept."""
        step, kept = cut
        parts: list[Statistics] = []
        saved: list[Tensor | None] = []
        for i, lo in enumerate(range(0, len(target_M), step)):
            places = slice(lo, lo + step)
            logits_SV = hidden_MD[places] @ weight_VD.t()
            warm_S = None if temperature_M is None else temperature_M[places]
            parts.append(statistics_in_place(logits_SV, target_M[places], warm_S, stops, entropy, i < kept))
            if i < kept:
                saved += [logits_SV, parts[-1].stop_shares]
        ctx.save_for_backward(hidden_MD, weight_VD, target_M, temperature_M, stops, *saved)
        ctx.cut = cut
        logps_M, entropy_M, stop_logps_M = (_joined([part[j] for part in parts]) for j in range(3))
        if entropy_M is not None:
            ctx.mark_non_differentiable(entropy_M)
        assert logps_M is not None
        return logps_M, entropy_M, stop_logps_M

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_M, _, stop_grad_M = grads
        hidden_MD, weight_VD, target_M, temperature_M, stops, *saved = ctx.saved_tensors
        step, kept = ctx.cut
        hidden_grad_MD = torch.empty_like(hidden_MD) if ctx.needs_input_grad[0] else None
        weight_grad_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for i, lo in enumerate(range(0, len(target_M), step)):
            places = slice(lo, lo + step)
            warm_S = None if temperature_M is None else temperature_M[places]
            if i < kept:
                probability_SV, shares_SK = saved[2 * i : 2 * i + 2]
            else:
                probability_SV = hidden_MD[places] @ weight_VD.t()
                found = statistics_in_place(probability_SV, target_M[places], warm_S, stops, False, True)
                shares_SK = found.stop_shares
            stop_grad_S = None if stops is None else stop_grad_M[places]
            grad_SV = gradient_in_place(
                probability_SV, target_M[places], warm_S, stops, shares_SK, grad_M[places], stop_grad_S
            )
            if hidden_grad_MD is not None:
                torch.mm(grad_SV, weight_VD, out=hidden_grad_MD[places])
            if weight_grad_VD is not None:
                weight_grad_VD.addmm_(grad_SV.t(), hidden_MD[places])
        return hidden_grad_MD, weight_grad_VD, None, None, None, None, None


def _joined(columns: list[Tensor | None]) -> Tensor | None:
    return None if columns[0] is None else torch.cat([column for column in columns if column is not None])
