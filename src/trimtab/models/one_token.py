"""One new token a row through the layers of Llama, Mistral, Qwen2 or Qwen3, without what transformers does around.

Masks, output classes, hooks' wrappers and cache bookkeeping cost a tiny model more than its products do. Each layer
is written out here. A pass is made for the decoding of some batches and holds the weights as they are then: its
products may be copies of them (products.py).

Dimension suffixes: _B rows, _T positions, _A heads of queries, keys and values together, _D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from trimtab.models.keys_values import KeysValues
from trimtab.models.products import Product

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SERVED = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)


FEW = 2**13
"""Numbers whose normalisation costs its calls more than its arithmetic."""


class OneTokenPass:
    """The pass of one model; see `serves`. Without gradient."""

    def __init__(self, model: PreTrainedModel) -> None:
        backbone = model.model
        self.embedding, self.rotary = model.get_input_embeddings(), backbone.rotary_emb
        self.layers = [_Layer(layer) for layer in backbone.layers]
        self.norm, self.head = _Norm(backbone.norm), Product(model.get_output_embeddings())
        config, attention = model.config, backbone.layers[0].self_attn
        self.key_heads, self.heads = config.num_key_value_heads, config.num_attention_heads
        self.scale, self.head_size = float(attention.scaling), int(attention.head_dim)
        self.turns_T2AD = torch.empty(0)

    def __call__(self, fed: Mapping[str, Tensor], position_B: Tensor, stores: Sequence[KeysValues]) -> Tensor:
        """The logits after the new tokens, [B, V], whose keys and values go into the stores, one rows' behind the
        other's. fed: input_ids [B, 1] or inputs_embeds [B, 1, hidden]."""
        hidden = (fed["inputs_embeds"] if "inputs_embeds" in fed else self.embedding(fed["input_ids"]))[:, 0]
        for store in stores:
            store.grow()
        most = max(store.columns for store in stores)
        if most > len(self.turns_T2AD):
            self.turns_T2AD = self._turns(hidden, 2 * most)
        cos_BAD, sin_BAD = self.turns_T2AD.index_select(0, position_B).unbind(1)
        half, rows = self.head_size // 2, [len(store) for store in stores]
        for place, layer in enumerate(self.layers):
            new_BAD = layer.heads(layer.norm_in(hidden)).view(len(hidden), -1, self.head_size)
            if layer.norm_q is not None and layer.norm_k is not None:
                split = [self.heads, self.key_heads, self.key_heads]
                query, key, value = torch.split(new_BAD, split, dim=1)
                new_BAD = torch.cat([layer.norm_q(query), layer.norm_k(key), value], dim=1)
            new_BAD = torch.addcmul(new_BAD * cos_BAD, new_BAD.roll(half, -1), sin_BAD)
            if len(stores) == 1:
                seen = stores[0].attended(place, new_BAD, self.heads, self.scale)
            else:
                parts = zip(stores, torch.split(new_BAD, rows), strict=True)
                seen = torch.cat([store.attended(place, part, self.heads, self.scale) for store, part in parts])
            hidden = layer.out.added_to(hidden, seen)
            gate, up = layer.gate_up(layer.norm_mlp(hidden)).chunk(2, dim=-1)
            hidden = layer.down.added_to(hidden, layer.act(gate) * up)
        return self.head(self.norm(hidden))

    def _turns(self, hidden: Tensor, positions: int) -> Tensor:
        """What x and its halves in each other's place are multiplied by at these positions: cosines, and sines with
        (−x2, x1)'s sign, [T, 2, A, D]. Values are not turned: 1 and 0."""
        cos_TD, sin_TD = (x[0] for x in self.rotary(hidden, torch.arange(positions, device=hidden.device)[None]))
        half = self.head_size // 2
        signed_TD = torch.cat([-sin_TD[:, :half], sin_TD[:, half:]], dim=-1)
        turned, still = self.heads + self.key_heads, (positions, self.key_heads, self.head_size)
        cos_TAD = torch.cat([cos_TD[:, None].expand(-1, turned, -1), cos_TD.new_ones(still)], dim=1)
        sin_TAD = torch.cat([signed_TD[:, None].expand(-1, turned, -1), sin_TD.new_zeros(still)], dim=1)
        return torch.stack([cos_TAD, sin_TAD], dim=1)


class _Layer:
    """What a layer's pass needs of it."""

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm_in, self.norm_mlp = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.heads = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = Product(attention.o_proj)
        self.norm_q, self.norm_k = (
            _Norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )
        self.gate_up, self.down, self.act = Product(mlp.gate_proj, mlp.up_proj), Product(mlp.down_proj), mlp.act_fn


class _Norm:
    """Root mean square normalisation."""

    def __init__(self, norm: LlamaRMSNorm) -> None:
        self.weight, self.epsilon = norm.weight.detach(), norm.variance_epsilon
        self.twice = torch.cat([self.weight, self.weight]) if self.weight.device.type == "cpu" else None

    def __call__(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        if self.twice is None or x.numel() > FEW:
            return functional.rms_norm(x, (size,), self.weight, self.epsilon)
        # x beside −x has mean 0 and x's mean square as its variance. On a CPU torch has one kernel for that, and
        # makes ten calls for a root mean square.
        both = functional.layer_norm(torch.cat([x, -x], dim=-1), (2 * size,), self.twice, None, self.epsilon)
        return both.narrow(-1, 0, size)


def serves(model: PreTrainedModel) -> bool:
    """Whether the model is of layers that this file writes out, without windows and in float32."""
    layers = getattr(getattr(model, "model", None), "layers", ())
    config = model.config
    kinds = getattr(config, "layer_types", None) or ()
    windows = getattr(config, "sliding_window", None) is not None or "sliding_attention" in kinds
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    plain = all(type(layer) in SERVED for layer in layers)
    return bool(len(layers)) and plain and not windows and not hooked and model.dtype == torch.float32
