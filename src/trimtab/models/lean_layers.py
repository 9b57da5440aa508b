"""Layers that keep less for the backward pass: transformers' gated feed-forward block and RMS norm.

A gated block, down(act(gate(x)) · up(x)), keeps four tensors of its inner width: gate, act(gate), up and their
product. Two are enough: the others are one pass over them. An RMS norm keeps its input twice, the second time
divided by its root mean square; a number a token does the same. What is computed again is computed by the same
operations, so a block's gradient is the same to the last bit; a norm's is to rounding.

Dimension suffixes: _NI packed tokens by inner width, _ND by hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCKS = {"Qwen2MLP", "Qwen3MLP", "LlamaMLP", "MistralMLP", "GemmaMLP", "Gemma2MLP", "Gemma3MLP"}
NORMS = {"Qwen2RMSNorm", "Qwen3RMSNorm", "LlamaRMSNorm", "MistralRMSNorm"}
"""Transformers' classes whose forward pass is exactly what is computed here. Gemma's norms are another formula."""


def keep_less(model: nn.Module) -> None:
    """Has the layers of a model that this file knows keep less. Weights and outputs stay what they are.

    Not for a model with activation checkpointing, which keeps less still.
    """
    for module in model.modules():
        name = type(module).__name__
        if name in BLOCKS:
            module.forward = MethodType(_gated_block, module)
        elif name in NORMS:
            module.forward = MethodType(_rms_norm, module)


def _gated_block(self: Any, x_ND: Tensor) -> Tensor:
    gate_NI, up_NI = self.gate_proj(x_ND), self.up_proj(x_ND)
    if not torch.is_grad_enabled():
        return _down(self, _product(gate_NI, up_NI, self.act_fn))
    product_NI: Tensor = _GatedProduct.apply(gate_NI, up_NI, self.act_fn)  # type: ignore[no-untyped-call]
    hooks = _InItsPlace(product_NI, _Recomputed(gate_NI.detach(), up_NI.detach(), self.act_fn))
    with torch.autograd.graph.saved_tensors_hooks(hooks.pack, _unpack):
        return _down(self, product_NI)


def _down(self: Any, product_NI: Tensor) -> Tensor:
    out_ND: Tensor = self.down_proj(product_NI)
    return out_ND


class _Recomputed(NamedTuple):
    """The product of a gated block, as what it is computed from."""

    gate: Tensor
    up: Tensor
    act: Callable[[Tensor], Tensor]


class _Of(NamedTuple):
    """A tensor that autograd would have kept."""

    value: _Recomputed
    shape: torch.Size


class _InItsPlace:
    """What autograd is to keep where it would keep the product. It holds no product itself: autograd holds it."""

    def __init__(self, product_NI: Tensor, again: _Recomputed) -> None:
        self.storage, self.numel, self.again = _storage(product_NI), product_NI.numel(), again

    def pack(self, tensor: Tensor) -> Tensor | _Of:
        whole = _storage(tensor) == self.storage and tensor.numel() == self.numel and tensor.is_contiguous()
        return _Of(self.again, tensor.shape) if whole else tensor


def _unpack(kept: Tensor | _Of) -> Tensor:
    return kept if isinstance(kept, Tensor) else _product(*kept.value).view(kept.shape)


def _storage(tensor: Tensor) -> int:
    """Which storage it is; tensors without data, as plan's are, have one too."""
    return int(tensor.untyped_storage()._cdata)


def _product(gate_NI: Tensor, up_NI: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """act(gate) · up, in one new tensor."""
    with torch.no_grad():
        active_NI = act(gate_NI)
        in_place = _storage(active_NI) != _storage(gate_NI)
        return active_NI.mul_(up_NI) if in_place else active_NI * up_NI


class _GatedProduct(torch.autograd.Function):
    """gate, up -> act(gate) · up, with both kept and nothing else."""

    @staticmethod
    def forward(ctx: Any, gate_NI: Tensor, up_NI: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(gate_NI, up_NI)
        return _product(gate_NI, up_NI, act)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NI: Tensor) -> tuple[Tensor, Tensor, None]:
        gate_NI, up_NI = ctx.saved_tensors
        with torch.enable_grad():
            gate_NI = gate_NI.detach().requires_grad_()
            active_NI = ctx.act(gate_NI)
        (grad_gate_NI,) = torch.autograd.grad(active_NI, gate_NI, grad_NI * up_NI)
        return grad_gate_NI, active_NI.detach().mul(grad_NI), None


def _rms_norm(self: Any, x_ND: Tensor) -> Tensor:
    if x_ND.dtype != torch.float32 or self.weight.dtype != torch.float32:
        plain: Tensor = type(self).forward(self, x_ND)
        return plain
    out: Tensor = _RMSNorm.apply(x_ND, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    """x -> weight · x / rms(x), with x and 1 / rms(x) kept (Zhang and Sennrich 2019, equation 4)."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        scale_N1 = torch.rsqrt(x_ND.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x_ND, scale_N1, weight_D)
        return (x_ND * scale_N1).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_ND, scale_N1, weight_D = ctx.saved_tensors
        normed_ND = x_ND * scale_N1
        by_weight_ND = grad_ND * normed_ND
        grad_weight_D = None
        if ctx.needs_input_grad[1]:
            grad_weight_D = by_weight_ND.reshape(-1, by_weight_ND.shape[-1]).sum(0)
        mean_N1 = (by_weight_ND @ weight_D)[..., None] / weight_D.numel()
        torch.mul(grad_ND, weight_D, out=by_weight_ND)
        grad_x_ND = by_weight_ND.addcmul_(normed_ND, mean_N1, value=-1).mul_(scale_N1)
        return grad_x_ND, grad_weight_D, None
