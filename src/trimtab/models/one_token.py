"""One new token a row through Llama's or Qwen2's layers, without what transformers does around them.

Masks, output classes, hooks' wrappers and cache bookkeeping cost a tiny model more than its products do. Each layer
is written out here; its linear maps are the model's own modules, an adapter's included.

Dimension suffixes: _B rows, _T columns, _H heads, _D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from trimtab.models.attention import one_query

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SERVED = (LlamaDecoderLayer, Qwen2DecoderLayer)


class OneTokenPass:
    """The pass of one model; see `serves`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.backbone = model.model
        self.embedding = model.get_input_embeddings()
        self.layers = list(self.backbone.layers)

    def __call__(self, fed: Mapping[str, Tensor], position_B: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
        """The hidden states of the new tokens, [B, hidden], whose keys and values go into the cache.

        fed: input_ids [B, 1] or inputs_embeds [B, 1, hidden]. mask: what each row sees, [B, 1, 1, T] boolean, or
        None where that is everything.
        """
        hidden = fed["inputs_embeds"] if "inputs_embeds" in fed else self.embedding(fed["input_ids"])
        cos, sin = self.backbone.rotary_emb(hidden, position_B[:, None])
        half = cos.shape[-1] // 2
        # x · cos + (−x2, x1) · sin, with the sign in the sine.
        rotation = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)[:, :, None]
        if mask is not None:  # as numbers, made once for all layers
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill_(~mask, -torch.inf)
        hidden = hidden[:, 0]
        for place, layer in enumerate(self.layers):
            normed = _normed(layer.input_layernorm, hidden)
            hidden = hidden + _attended(layer.self_attn, normed, rotation, mask, cache, place)
            normed, mlp = _normed(layer.post_attention_layernorm, hidden), layer.mlp
            hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed))
        return _normed(self.backbone.norm, hidden)


def serves(model: PreTrainedModel) -> bool:
    """Whether the model is of layers that this file writes out, without windows and in float32."""
    layers = getattr(getattr(model, "model", None), "layers", ())
    windows = "sliding_attention" in (getattr(model.config, "layer_types", None) or ())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    plain = all(type(layer) in SERVED for layer in layers)
    return bool(len(layers)) and plain and not windows and not hooked and model.dtype == torch.float32


def _normed(norm: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    shape = hidden.shape[-1:]
    return functional.rms_norm(hidden, shape, norm.weight, norm.variance_epsilon)


def _attended(
    attention: LlamaAttention,
    normed: Tensor,
    rotation: tuple[Tensor, Tensor],
    mask: Tensor | None,
    cache: Cache,
    place: int,
) -> Tensor:
    shape = len(normed), 1, -1, attention.head_dim
    query, key = (_rotated(proj(normed).view(shape), rotation) for proj in (attention.q_proj, attention.k_proj))
    value = attention.v_proj(normed).view(shape)
    keys, values = cache.layers[place].update(key.transpose(1, 2), value.transpose(1, 2))
    out = one_query(query.transpose(1, 2), keys, values, mask, attention.scaling, None)
    hidden: Tensor = attention.o_proj(out.flatten(1))
    return hidden


def _rotated(x_B1HD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    return torch.addcmul(x_B1HD * cos, x_B1HD.roll(x_B1HD.shape[-1] // 2, -1), sin)
