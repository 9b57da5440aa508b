"""Tree attention on the CPU: the fused kernel over buckets of branches of like length, in one autograd function.

There is no N × N mask and one kernel call a bucket. Gradients are added up in the packed layout.

The completions of a long prompt look at its keys and at their own in two calls (buckets.py, AttentionPlan), whose
softmaxes are joined by their log-sum-exps: softmax over both is the mean of the two outputs, weighted by the share
of each sum. The kernel's backward takes the joined output and log-sum-exp, and gives each call its part of the
gradient: that of a score is p (dp − Σ p dp), where p and the sum are of the joined softmax (Dao et al. 2022,
appendix B.2).

Dimension suffixes: _H heads, _N packed tokens, _D head size, _S branches of a bucket, _L their length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch
from trimtab.models.buckets import (
    AttentionPlan,
    Bucket,
    Range,
    attention_plan,
    bucket_rows,
    buckets,
    packed_rows,
    window_mask,
)

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Inputs(NamedTuple):
    """q: [1, H, N, D]; k, v: [1, H_kv, N, D]. times: query heads of a key head. scale: of the scores."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float

    @property
    def times(self) -> int:
        return int(self.q.shape[1] // self.k.shape[1])

    def rows(self, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
        """A bucket's queries, keys and values: [S, H, L, D] each."""
        keys, values = (bucket_rows(x, bucket, self.times) for x in (self.k, self.v))
        return bucket_rows(self.q, bucket), keys, values

    def across(self, prompt: Range, completions: Range) -> tuple[Tensor, Tensor, Tensor]:
        """The completions' queries, [1, H, n, D], and the prompt's keys and values, [1, H, p, D]."""
        keys, values = (
            x[:, :, slice(*prompt)].repeat_interleave(self.times, dim=1)
            if self.times > 1
            else x[:, :, slice(*prompt)]
            for x in (self.k, self.v)
        )
        return self.q[:, :, slice(*completions)], keys, values


class _Gradients:
    """Of queries, keys and values, added up in the packed layout."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.q, self.k, self.v = (torch.zeros_like(x) for x in inputs[:3])

    def add_rows(self, bucket: Bucket, grads: tuple[Tensor, Tensor, Tensor]) -> None:
        """Those of a bucket's rows, [S, H, L, D] each."""
        times = self.inputs.times
        for total, grad, repeated in zip((self.q, self.k, self.v), grads, (1, times, times), strict=True):
            total[0].index_add_(1, bucket.rows, _fold_heads(packed_rows(grad), repeated))

    def add_across(self, prompt: Range, completions: Range, grads: tuple[Tensor, Tensor, Tensor]) -> None:
        """Those of the completions' queries and the prompt's keys and values."""
        self.q[:, :, slice(*completions)] += grads[0]
        for total, grad in ((self.k, grads[1]), (self.v, grads[2])):
            total[0, :, slice(*prompt)] += _fold_heads(grad[0], self.inputs.times)


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
        # A window is a mask of a branch's own square: its prompts stay in the branches.
        parts = attention_plan(batch) if window is None else AttentionPlan(buckets(batch), [], [])
        inputs = Inputs(q, k, v, scale)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        saved: list[Tensor] = []
        for bucket in parts.whole:
            if bucket.length == 1:
                # Alone, a token's weight is 1 whatever its query is. The kernel's backward would leave
                # rounding noise where the gradient of queries and keys is exactly 0.
                o = bucket_rows(v, bucket, inputs.times)
                out[0].index_copy_(1, bucket.home, packed_rows(o))
                saved += [o, o]
                continue
            mask = window_mask(bucket.length, window, q.device)
            o, lse = _forward(*inputs.rows(bucket), 0.0, mask is None, attn_mask=_additive(mask, q), scale=scale)
            out[0].index_copy_(1, bucket.home, packed_rows(o).index_select(1, bucket.kept))
            saved += [o, lse]
        if parts.shared:
            saved += [out, _join_prompts(inputs, parts, out)]
        ctx.save_for_backward(q, k, v, *saved)
        ctx.parts, ctx.scale, ctx.window = parts, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        (grad_out,) = grads
        q, k, v, *saved = ctx.saved_tensors
        inputs = Inputs(q, k, v, ctx.scale)
        totals = _Gradients(inputs)
        for i, bucket in enumerate(ctx.parts.whole):
            if bucket.length == 1:
                grad = grad_out[0].index_select(1, bucket.home)
                totals.v[0].index_add_(1, bucket.rows, _fold_heads(grad, inputs.times))
                continue
            o, lse = saved[2 * i : 2 * i + 2]
            mask = window_mask(bucket.length, ctx.window, q.device)
            go = _rows_of_gradient(grad_out, bucket)
            found = _backward(
                go, *inputs.rows(bucket), o, lse, 0.0, mask is None, attn_mask=_additive(mask, q), scale=ctx.scale
            )
            totals.add_rows(bucket, found)
        if ctx.parts.shared:
            _add_shared(totals, ctx.parts, grad_out, *saved[-2:])
        return totals.q, totals.k, totals.v, None, None, None


def _rows_of_gradient(grad_out: Tensor, bucket: Bucket) -> Tensor:
    """[1, H, N, D] -> [S, H, L, D]: outputs that were not kept, and padding, have no gradient."""
    heads, size = grad_out.shape[1], grad_out.shape[3]
    go = grad_out.new_zeros(heads, len(bucket.rows), size)
    go.index_copy_(1, bucket.kept, grad_out[0].index_select(1, bucket.home))
    return go.view(heads, bucket.branches, bucket.length, size).transpose(0, 1)


def _join_prompts(inputs: Inputs, parts: AttentionPlan, out: Tensor) -> Tensor:
    """Writes the completions' outputs over their own tokens and their prompt's. Returns the log-sum-exps of both
    together, float32 [H, N], of completions' tokens only."""
    lse_HN = torch.zeros(out.shape[1:3], dtype=torch.float32, device=out.device)
    for bucket in parts.own:
        o, lse = _forward(*inputs.rows(bucket), 0.0, True, scale=inputs.scale)
        out[0].index_copy_(1, bucket.home, packed_rows(o).index_select(1, bucket.kept))
        flat_HL = lse.transpose(0, 1).flatten(1)
        lse_HN.index_copy_(1, bucket.home, flat_HL.index_select(1, bucket.kept))
    for prompt, completions in parts.shared:
        o, lse = _forward(*inputs.across(prompt, completions), 0.0, False, scale=inputs.scale)
        own_HL = lse_HN[:, slice(*completions)]
        share_HL1 = torch.sigmoid(lse[0] - own_HL)[:, :, None]
        out[0, :, slice(*completions)].lerp_(o[0], share_HL1.to(out.dtype))
        lse_HN[:, slice(*completions)] = torch.logaddexp(own_HL, lse[0])
    return lse_HN


def _add_shared(totals: _Gradients, parts: AttentionPlan, grad_out: Tensor, out: Tensor, lse_HN: Tensor) -> None:
    inputs = totals.inputs
    for bucket in parts.own:
        # Padding's probabilities are exp(score − ∞) = 0: it has no part in anything.
        lse_HL = lse_HN.new_full((lse_HN.shape[0], len(bucket.rows)), float("inf"))
        lse_HL.index_copy_(1, bucket.kept, lse_HN.index_select(1, bucket.home))
        lse = lse_HL.view(-1, bucket.branches, bucket.length).transpose(0, 1)
        go, o = _rows_of_gradient(grad_out, bucket), bucket_rows(out, bucket)
        totals.add_rows(bucket, _backward(go, *inputs.rows(bucket), o, lse, 0.0, True, scale=inputs.scale))
    for prompt, completions in parts.shared:
        go, o = (x[:, :, slice(*completions)] for x in (grad_out, out))
        lse = lse_HN[None, :, slice(*completions)]
        found = _backward(go, *inputs.across(prompt, completions), o, lse, 0.0, False, scale=inputs.scale)
        totals.add_across(prompt, completions, found)


def fused_tree_attention(
    q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float, window: int | None = None
) -> Tensor:
    """q: [1, H, N, D]; k, v: [1, H_kv, N, D] with the same D -> [1, H, N, D]. There is no soft cap."""
    return _FusedTree.apply(q, k, v, batch, scale, window)  # type: ignore[no-any-return, no-untyped-call]
