"""Tree attention in plain matrix products, over buckets: for soft caps on scores, which no fused kernel has.

Dimension suffixes: _H heads, _N packed tokens, _D head size, _S branches of a bucket, _L their length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch
from trimtab.models.buckets import bucket_rows, buckets, packed_rows, window_mask


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """softmax(softcap · tanh(q·kᵀ·scale / softcap)) · v, in matrix products. mask: True = may attend."""
    scores = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        # Not −inf: a row of padding sees nothing, and NaN would spread from it.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def plain_tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    batch: PackedBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention bucket by bucket. q: [1, H, N, D]; k, v: [1, H_kv, N, D] -> [1, H, N, D]"""
    times = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for bucket in buckets(batch):
        mask = window_mask(bucket.length, window, q.device)
        if mask is None:
            mask = torch.ones(bucket.length, bucket.length, dtype=torch.bool, device=q.device).tril()
        keys, values = bucket_rows(k, bucket, times), bucket_rows(v, bucket, times)
        o = packed_rows(plain_attention(bucket_rows(q, bucket), keys, values, mask, scale, softcap))
        out = out.index_copy(2, bucket.home, o.index_select(1, bucket.kept)[None])
    return out
