"""log softmax at the targets, in the memory of the logits: what a training step spends beside its products.

Dimension suffixes: _S tokens, _V vocabulary, _K stop tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

BLOCK_ENTRIES = 2**19
"""Entries that are worked on together on a CPU, 2 MiB: they stay near the core."""


class LogSoftmax(torch.autograd.Function):
    """log softmax(logits / T) at the targets in few passes, and in the memory of the logits.

    A block of rows is small enough to stay in the processor's cache while it is divided, exponentiated and summed.
    What is left in the place of the logits are the probabilities, which are all that the gradient needs:
    ∂ log π(y) / ∂ logits = onehot(y) − π, and ∂ log π(stops) / ∂ logits = π(· | stops) − π.
    """

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
        if trains:
            ctx.save_for_backward(logits_SV, target_S, temperature_S, stops, stop_shares_SK)
        if entropy_S is not None:
            ctx.mark_non_differentiable(entropy_S)
        return logps_S, entropy_S, stop_logps_S

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_S, _, stop_grad_S = grads
        grad_SV, target_S, temperature_S, stops, stop_shares_SK = ctx.saved_tensors  # still the probabilities
        # In their place: a second backward pass finds them changed, and torch says so.
        whole_S = grad_S if stops is None else grad_S + stop_grad_S
        scale_S = 1.0 if temperature_S is None else 1.0 / temperature_S
        grad_SV.mul_((-whole_S * scale_S)[:, None])
        grad_SV.scatter_add_(1, target_S[:, None], (grad_S * scale_S)[:, None])
        if stops is not None:
            grad_SV.index_add_(1, stops, stop_shares_SK * (stop_grad_S * scale_S)[:, None])
        return grad_SV, None, None, None, None, None
