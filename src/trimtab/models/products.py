"""Linear maps of one input as a single product, for passes over a few rows by weights that stay as they are.

A product of few rows costs what its weights cost to read and what the call costs. Weights that stand side by side
are one call; large ones are laid out anew, once, in the order in which oneDNN's kernel reads them: at 8 rows it
then takes half the time. Both are copies: made for the decoding of some batches, and dropped with it. Under
autocast they are in its precision, to which the modules themselves would cast their weights for every token.

Dimension suffixes: _B rows, _I what goes in, _O what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGE = 2**17
"""Entries of weights that are laid out anew: below, oneDNN's call costs more than its kernel saves."""
ROWS = 32
"""What the layout is made for; it serves any number."""


class Product:
    """x -> the outputs of all maps side by side, [B, I] -> [B, O].

    Under autocast to bf16 as autocast has it: x, weights and outputs in bf16. Anything but plain linear maps in
    float32 on a CPU (adapters) is computed by the modules themselves.
    """

    def __init__(self, *maps: nn.Module) -> None:
        self.maps = maps
        self.weight_OI: Tensor | None = None
        self.bias_O: Tensor | None = None
        self.packed: Any = None
        self.dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        linear = [one for one in maps if type(one) is nn.Linear]
        if len(linear) < len(maps) or not all(map(_on_cpu, linear)) or self.dtype == torch.float16:
            return
        biases = [one.bias for one in linear]
        if any((bias is None) != (biases[0] is None) for bias in biases):
            return
        with torch.no_grad():
            self.weight_OI = _joined([one.weight for one in linear]).to(self.dtype)
            self.bias_O = None if biases[0] is None else _joined(biases).to(self.dtype)
            if self.weight_OI.numel() >= LARGE and _has_onednn(self.dtype):
                self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight_OI, ROWS)
                self.weight_OI = None

    def __call__(self, x_BI: Tensor) -> Tensor:
        """Without gradient."""
        if self.weight_OI is not None:
            return functional.linear(x_BI.to(self.dtype), self.weight_OI, self.bias_O)
        out_BO: Tensor
        if self.packed is not None:
            x_BI = x_BI.to(self.dtype)
            out_BO = torch.ops.mkldnn._linear_pointwise(x_BI, self.packed, self.bias_O, "none", [], "")
        else:
            parts = [one(x_BI) for one in self.maps]
            out_BO = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return out_BO

    def added_to(self, hidden_BO: Tensor, x_BI: Tensor) -> Tensor:
        """hidden + the product, in one call where it can be."""
        if self.dtype != torch.float32:  # autocast adds in the wider of both
            return hidden_BO + self(x_BI)
        if self.weight_OI is not None and self.bias_O is None:
            return torch.addmm(hidden_BO, x_BI, self.weight_OI.t())
        if self.packed is not None:
            out_BO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x_BI, hidden_BO, self.packed, self.bias_O, "add"
            )
            return out_BO
        return hidden_BO + self(x_BI)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].detach() if len(tensors) == 1 else torch.cat([one.detach() for one in tensors])


def _on_cpu(linear: nn.Linear) -> bool:
    return linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32


def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators that its compiler uses for such weights, and this processor the
    instructions that they need: in bf16 not every one has."""
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch._C._has_mkldnn or not all(hasattr(operators, name) for name in names):
        return False
    return dtype == torch.float32 or bool(operators._is_mkldnn_bf16_supported())
