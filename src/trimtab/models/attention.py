"""Tree attention: the completions of a group share their prompt. This file registers it with transformers.

Three engines compute the same pattern: attention_fused.py on the CPU, attention_flex.py on CUDA, and
attention_plain.py where scores have a soft cap (Gemma 2), which the CPU's fused kernel does not know.

Dimension suffixes: _H heads, _N packed tokens, _D head size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trimtab.data.groups import PackedBatch
from trimtab.models.attention_flex import flex_tree_attention
from trimtab.models.attention_fused import fused_tree_attention
from trimtab.models.attention_plain import plain_attention, plain_tree_attention

NAME = "trimtab_tree"


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    batch: PackedBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention along the paths of a packed batch, by the engine that fits.

    q: [1, H, N, D]; k, v: [1, H_kv, N, D] -> [1, H, N, D]. window: positions that a token sees, itself included.
    softcap: of scores before the softmax.
    """
    if q.device.type == "cuda":
        return flex_tree_attention(q, k, v, batch, scale, window, softcap)
    if softcap is None and q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        return fused_tree_attention(q, k, v, batch, scale, window)
    return plain_tree_attention(q, k, v, batch, scale, window, softcap)


def tree_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    tree: PackedBatch | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The function registered with transformers: [1, H, N, D] -> [1, N, H, D].

    Without a tree (generation, padded rows) it is transformers' own SDPA attention.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is not None:
        if dropout:
            raise ValueError("attention dropout must be 0: packed attention has none (set attention_dropout=0)")
        if query.dtype != value.dtype or key.dtype != value.dtype:
            # Rotary embeddings can leave queries and keys in float32 under autocast.
            query, key = query.to(value.dtype), key.to(value.dtype)
        out = tree_attention(query, key, value, tree, scale, sliding_window, softcap)
        return out.transpose(1, 2).contiguous(), None
    shared = attention_mask is None or attention_mask.shape[1] == 1
    if query.shape[2] == 1 and shared and key.shape[1] < query.shape[1]:
        return one_query(query, key, value, attention_mask, scale, softcap), None
    if softcap is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    times = query.shape[1] // key.shape[1]
    if attention_mask is None and query.shape[2] > 1:
        n, past = query.shape[2], key.shape[2] - query.shape[2]
        attention_mask = torch.ones(n, n + past, dtype=torch.bool, device=query.device).tril(past)
    keys, values = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    out = plain_attention(query, keys, values, attention_mask, scale, softcap)
    return out.transpose(1, 2).contiguous(), None


def one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """One new token a row, [B, H, 1, D] over k, v [B, H_kv, T, D] -> [B, 1, H, D]: the query heads that share a
    key head are its queries, so that no key is repeated. mask: [B, 1, 1, T]."""
    rows, heads, _, size = q.shape
    folded = q.reshape(rows, k.shape[1], -1, size)
    if softcap is not None:
        out = plain_attention(folded, k, v, mask, scale, softcap)
    else:
        out = torch.nn.functional.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=scale)
    return out.reshape(rows, 1, heads, v.shape[-1])


def packed_hidden(
    backbone: torch.nn.Module,
    batch: PackedBatch,
    fed: Mapping[str, Tensor] | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """The hidden states of a packed batch, [N, D], from a backbone that runs this file's attention.

    fed: what it is fed for the tokens, [N] or [N, D], by argument; None: their ids. cache: an empty one, which
    keeps the tokens' keys and values.
    """
    hidden: Tensor = backbone(
        **{name: tensor[None] for name, tensor in (fed or {"input_ids": batch.input_ids}).items()},
        position_ids=batch.position_ids[None],
        # A 4-dimensional mask is passed on as it is, so that transformers builds no N × N one.
        attention_mask=torch.empty(1, 1, 1, 1, device=batch.input_ids.device),
        use_cache=cache is not None,
        past_key_values=cache,
        tree=batch,
    ).last_hidden_state[0]
    return hidden


AttentionInterface.register(NAME, tree_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
