"""Tree attention on the CPU: the fused kernel over buckets of branches of like length, in one autograd function.

There is no N × N mask and one kernel call a bucket. Gradients are added up in the packed layout.

Dimension suffixes: _H heads, _N packed tokens, _D head size, _S branches of a bucket, _L their length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch
from trimtab.models.buckets import bucket_rows, buckets, packed_rows, window_mask


def _fold_heads(grad_HND: Tensor, times: int) -> Tensor:
    """The gradient of repeated heads: sums over the query heads that share a key head."""
    return grad_HND if times == 1 else grad_HND.view(-1, times, *grad_HND.shape[1:]).sum(1)


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The kernel takes its mask as numbers to add."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, float("-inf"))


class _FusedTree(torch.autograd.Function):
    """The CPU's flash kernel over each bucket, with gradients added up in the packed layout."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float, window: int | None
    ) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        times = q.shape[1] // k.shape[1]
        saved: list[Tensor] = []
        for bucket in buckets(batch):
            if bucket.length == 1:
                # Alone, a token's weight is 1 whatever its query is. The kernel's backward would leave
                # rounding noise where the gradient of queries and keys is exactly 0.
                o = bucket_rows(v, bucket, times)
                out[0].index_copy_(1, bucket.home, packed_rows(o))
                saved += [o, o]
                continue
            mask = window_mask(bucket.length, window, q.device)
            o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                bucket_rows(q, bucket), bucket_rows(k, bucket, times), bucket_rows(v, bucket, times),
                0.0, mask is None, attn_mask=_additive(mask, q), scale=scale,
            )  # fmt: skip
            out[0].index_copy_(1, bucket.home, packed_rows(o).index_select(1, bucket.kept))
            saved += [o, lse]
        ctx.save_for_backward(q, k, v, *saved)
        ctx.batch, ctx.scale, ctx.window = batch, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        (grad_out,) = grads
        q, k, v, *saved = ctx.saved_tensors
        times = q.shape[1] // k.shape[1]
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, bucket in enumerate(buckets(ctx.batch)):
            if bucket.length == 1:
                dv[0].index_add_(1, bucket.rows, _fold_heads(grad_out[0].index_select(1, bucket.home), times))
                continue
            o, lse = saved[2 * i : 2 * i + 2]
            mask = window_mask(bucket.length, ctx.window, q.device)
            # Outputs that were not kept, and padding, have no gradient.
            go = torch.zeros_like(packed_rows(o))
            go.index_copy_(1, bucket.kept, grad_out[0].index_select(1, bucket.home))
            gq, gk, gv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                go.view(q.shape[1], bucket.branches, bucket.length, q.shape[3]).transpose(0, 1),
                bucket_rows(q, bucket), bucket_rows(k, bucket, times), bucket_rows(v, bucket, times), o, lse,
                0.0, mask is None, attn_mask=_additive(mask, q), scale=ctx.scale,
            )  # fmt: skip
            for total, grad, repeated in ((dq, gq, 1), (dk, gk, times), (dv, gv, times)):
                total[0].index_add_(1, bucket.rows, _fold_heads(packed_rows(grad), repeated))
        return dq, dk, dv, None, None, None


def fused_tree_attention(
    q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float, window: int | None = None
) -> Tensor:
    """q: [1, H, N, D]; k, v: [1, H_kv, N, D] with the same D -> [1, H, N, D]. There is no soft cap."""
    return _FusedTree.apply(q, k, v, batch, scale, window)  # type: ignore[no-any-return, no-untyped-call]
