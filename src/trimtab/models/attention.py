"""Tree attention: the completions of a group share their prompt.

On the CPU one custom autograd function runs PyTorch's fused kernel over each segment and writes
straight into the packed tensors, forward and backward: no N × N mask, no padding, no copies of
zeros for every slice. On CUDA FlexAttention runs the same pattern as a block mask. Layers with a
soft cap on attention scores (Gemma 2) have no fused kernel and go through plain matrix products,
segment by segment.

A sliding window is measured in positions, never in packed distance: token i sees token j of its
own path iff 0 <= position_i - position_j < window.

Dimension suffixes: _H query heads, _N packed tokens, _D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trimtab.data.groups import PackedBatch, Segment

NAME = "trimtab_tree"
Range = tuple[int, int]


def branches(segment: Segment) -> Iterator[tuple[Range, tuple[Range, ...], int]]:
    """What attends to what: (queries, key ranges, prefix length), the keys ending with the queries.

    The prompt goes with the first completion, which lies right behind it: together they are one
    causal sequence.
    """
    start, end = segment.prompt
    first = segment.completions[0]
    yield (start, first[1]), ((start, first[1]),), 0
    for lo, hi in segment.completions[1:]:
        if hi > lo:
            yield (lo, hi), ((start, end), (lo, hi)), end - start


def branch_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """Boolean [queries, keys], the last query at the last key; None where plain causality does."""
    if queries == keys and (window is None or keys <= window):
        return None
    q = torch.arange(keys - queries, keys, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    mask = k <= q
    return mask if window is None else mask & (q - k < window)


def gather(x_HND: Tensor, ranges: tuple[Range, ...]) -> Tensor:
    parts = [x_HND[:, :, lo:hi] for lo, hi in ranges if hi > lo]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def repeat_heads(x: Tensor, times: int) -> Tensor:
    """[1, H_kv, N, D] -> [1, H_kv * times, N, D]"""
    return x if times == 1 else x.repeat_interleave(times, dim=1)


class _FusedTree(torch.autograd.Function):
    """The CPU's flash kernel over each branch, with gradients added up in place."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float, window: int | None
    ) -> Tensor:
        out = torch.empty_like(q)
        times = q.shape[1] // k.shape[1]
        saved: list[Tensor] = []
        for segment in batch.segments:
            for (lo, hi), ranges, _ in branches(segment):
                keys = repeat_heads(gather(k, ranges), times)
                values = repeat_heads(gather(v, ranges), times)
                mask = branch_mask(hi - lo, keys.shape[2], window, q.device)
                o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    q[:, :, lo:hi], keys, values, 0.0, mask is None, attn_mask=_additive(mask, q), scale=scale
                )
                out[:, :, lo:hi] = o
                saved.append(lse)
        ctx.save_for_backward(q, k, v, out, *saved)
        ctx.batch, ctx.scale, ctx.window = batch, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_out,) = grads
        q, k, v, out, *saved = ctx.saved_tensors
        times = q.shape[1] // k.shape[1]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        lses = iter(saved)
        for segment in ctx.batch.segments:
            for (lo, hi), ranges, _ in branches(segment):
                keys = repeat_heads(gather(k, ranges), times)
                values = repeat_heads(gather(v, ranges), times)
                mask = branch_mask(hi - lo, keys.shape[2], ctx.window, q.device)
                gq, gk, gv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    grad_out[:, :, lo:hi], q[:, :, lo:hi], keys, values, out[:, :, lo:hi], next(lses),
                    0.0, mask is None, attn_mask=_additive(mask, q), scale=ctx.scale,
                )  # fmt: skip
                dq[:, :, lo:hi] = gq
                offset = 0
                for a, b in ranges:
                    if b > a:
                        dk[:, :, a:b] += _fold_heads(gk[:, :, offset : offset + b - a], times)
                        dv[:, :, a:b] += _fold_heads(gv[:, :, offset : offset + b - a], times)
                        offset += b - a
        return dq, dk, dv, None, None, None


def _fold_heads(grad: Tensor, times: int) -> Tensor:
    """The gradient of repeat_heads: sums over the query heads that share a key head."""
    if times == 1:
        return grad
    one, heads, tokens, size = grad.shape
    return grad.reshape(one, heads // times, times, tokens, size).sum(2)


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The kernel takes its mask as numbers to add."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, float("-inf"))


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """softmax(softcap · tanh(q·kᵀ·scale / softcap)) · v, in matrix products. mask: True = may attend."""
    scores = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    batch: PackedBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention segment by segment. q: [1, H, N, D]; k, v: [1, H_kv, N, D] -> [1, H, N, D]"""
    if softcap is None and q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        return _FusedTree.apply(q, k, v, batch, scale, window)  # type: ignore[no-any-return, no-untyped-call]
    times = q.shape[1] // k.shape[1]
    outs = []
    for segment in batch.segments:
        for (lo, hi), ranges, _ in branches(segment):
            keys, values = repeat_heads(gather(k, ranges), times), repeat_heads(gather(v, ranges), times)
            n = keys.shape[2]
            mask = branch_mask(hi - lo, n, window, q.device)
            if mask is None:
                mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
            outs.append(_plain(q[:, :, lo:hi], keys, values, mask, scale, softcap))
    return torch.cat(outs, dim=2)


def tree_ids(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """For each packed token its group [N] and its branch [N]: 0 the prompt, i the i-th completion."""
    group = torch.empty(batch.tokens, dtype=torch.int32)
    branch = torch.zeros(batch.tokens, dtype=torch.int32)
    for g, segment in enumerate(batch.segments):
        group[segment.prompt[0] : segment.completions[-1][1]] = g
        for i, (lo, hi) in enumerate(segment.completions, start=1):
            branch[lo:hi] = i
    device = batch.input_ids.device
    return group.to(device), branch.to(device)


def tree_mask(batch: PackedBatch, window: int | None) -> Callable[[Any, Any, Any, Any], Tensor]:
    """The whole pattern as FlexAttention's mask_mod(batch, head, query, key)."""
    group, branch = tree_ids(batch)
    position = batch.position_ids

    def mask_mod(b: Any, h: Any, q: Any, k: Any) -> Tensor:
        same_path = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q]))
        distance = position[q] - position[k]
        seen = same_path & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    return mask_mod


def flex_tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    batch: PackedBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The same through FlexAttention: a block mask on CUDA, compiled; the same numbers on the CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    key = f"block_mask:{window}"
    if key not in batch.cache:
        n = batch.tokens
        batch.cache[key] = create_block_mask(tree_mask(batch, window), None, None, n, n, device=str(q.device))

    def cap(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    run: Any = _compiled_flex() if q.device.type == "cuda" else flex_attention
    out: Tensor = run(
        q, k, v,
        score_mod=None if softcap is None else cap,
        block_mask=batch.cache[key], scale=scale, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out


_FLEX: list[Any] = []


def _compiled_flex() -> Any:
    if not _FLEX:
        from torch.nn.attention.flex_attention import flex_attention

        _FLEX.append(torch.compile(flex_attention, dynamic=True))
    return _FLEX[0]


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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function registered with transformers: [1, H, N, D] -> [1, N, H, D].

    Without a tree (generation, padded rows) it is transformers' own SDPA attention.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree is not None:
        if dropout:
            raise ValueError("attention dropout must be 0: packed attention has none (set attention_dropout=0)")
        attend = flex_tree_attention if query.device.type == "cuda" else segment_attention
        if query.dtype != value.dtype or key.dtype != value.dtype:
            # Rotary embeddings can leave queries and keys in float32 under autocast.
            query, key = query.to(value.dtype), key.to(value.dtype)
        out = attend(query, key, value, tree, scale, sliding_window, softcap)
        return out.transpose(1, 2).contiguous(), None
    if softcap is None:
        sdpa: Any = sdpa_attention_forward
        out, _ = sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        return out, None
    times = query.shape[1] // key.shape[1]
    if attention_mask is None and query.shape[2] > 1:
        n, past = query.shape[2], key.shape[2] - query.shape[2]
        attention_mask = torch.ones(n, n + past, dtype=torch.bool, device=query.device).tril(past)
    out = _plain(query, repeat_heads(key, times), repeat_heads(value, times), attention_mask, scale, softcap)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, tree_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
