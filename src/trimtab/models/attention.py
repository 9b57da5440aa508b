"""Tree attention: the completions of a group share their prompt.

On the CPU one custom autograd function runs PyTorch's fused kernel over buckets of branches of like
length and adds gradients up in the packed layout: no N × N mask, one kernel call a bucket. On CUDA
FlexAttention runs the same pattern as a block mask. Layers with a soft cap on attention scores (Gemma 2)
have no fused kernel and go through plain matrix products, over the same buckets.

A sliding window is measured in positions, never in packed distance: token i sees token j of its
own path iff 0 <= position_i - position_j < window.

Dimension suffixes: _H heads, _N packed tokens, _D head size, _S branches of a bucket, _L their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trimtab.data.groups import PackedBatch

NAME = "trimtab_tree"
Range = tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """Branches of like length, side by side as rows of plain causal attention.

    A branch is a prompt with one of its completions: one causal sequence at positions 0, 1, …. The
    prompt's outputs are taken from its first branch; in the others its queries are computed for nothing,
    which costs less than a kernel call for each piece.

    rows: [S · L] packed positions of S branches of at most L tokens, padded on the right (a causal query
    never sees what follows it). kept: [K] places of `rows` whose output is wanted. home: [K] their packed
    positions, each packed position in one bucket once.
    """

    rows: Tensor
    kept: Tensor
    home: Tensor
    branches: int
    length: int


BUCKET_WASTE = 0.8
"""A branch joins a bucket while it is at least this share of the bucket's longest."""


def buckets(batch: PackedBatch) -> list[Bucket]:
    """The batch's branches, sorted by length into buckets; built once a batch."""
    if "buckets" not in batch.cache:
        batch.cache["buckets"] = list(_fill_buckets(batch))
    return batch.cache["buckets"]  # type: ignore[return-value]


def _fill_buckets(batch: PackedBatch) -> Iterator[Bucket]:
    # (length, packed ranges, tokens of the prompt whose output another branch gives)
    branches: list[tuple[int, list[Range], int]] = []
    for segment in batch.segments:
        prompt = segment.prompt
        for i, completion in enumerate(segment.completions):
            if i and completion[0] == completion[1]:
                continue  # one token: predicted from the prompt, never fed
            length = prompt[1] - prompt[0] + completion[1] - completion[0]
            branches.append((length, [prompt, completion], prompt[1] - prompt[0] if i else 0))
    branches.sort(key=lambda branch: -branch[0])
    while branches:
        longest = branches[0][0]
        size = next((n for n, b in enumerate(branches) if b[0] < BUCKET_WASTE * longest), len(branches))
        yield _make_bucket(branches[:size], longest, batch.input_ids.device)
        branches = branches[size:]


def _make_bucket(branches: list[tuple[int, list[Range], int]], longest: int, device: torch.device) -> Bucket:
    rows = torch.zeros(len(branches), longest, dtype=torch.long)
    wanted = torch.zeros(len(branches), longest, dtype=torch.bool)
    for i, (length, ranges, skipped) in enumerate(branches):
        rows[i, :length] = torch.cat([torch.arange(lo, hi) for lo, hi in ranges])
        wanted[i, skipped:length] = True
    flat = rows.flatten()
    kept = wanted.flatten().nonzero()[:, 0]
    return Bucket(flat.to(device), kept.to(device), flat[kept].to(device), len(branches), longest)


def window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Boolean [L, L], query by key; None where plain causality does, because no token is out of sight."""
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def _rows(x_HND: Tensor, bucket: Bucket, times: int = 1) -> Tensor:
    """[1, H, N, D] -> [S, H * times, L, D]"""
    heads, size = x_HND.shape[1], x_HND.shape[3]
    x = x_HND[0].index_select(1, bucket.rows).view(heads, bucket.branches, bucket.length, size)
    return (x if times == 1 else x.repeat_interleave(times, dim=0)).transpose(0, 1)


def _packed(x_SHLD: Tensor) -> Tensor:
    """[S, H, L, D] -> [H, S · L, D]"""
    return x_SHLD.transpose(0, 1).flatten(1, 2)


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
                o = _rows(v, bucket, times)
                out[0].index_copy_(1, bucket.home, _packed(o))
                saved += [o, o]
                continue
            mask = window_mask(bucket.length, window, q.device)
            o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                _rows(q, bucket), _rows(k, bucket, times), _rows(v, bucket, times),
                0.0, mask is None, attn_mask=_additive(mask, q), scale=scale,
            )  # fmt: skip
            out[0].index_copy_(1, bucket.home, _packed(o).index_select(1, bucket.kept))
            saved += [o, lse]
        ctx.save_for_backward(q, k, v, *saved)
        ctx.batch, ctx.scale, ctx.window = batch, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
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
            go = torch.zeros_like(_packed(o))
            go.index_copy_(1, bucket.kept, grad_out[0].index_select(1, bucket.home))
            gq, gk, gv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                go.view(q.shape[1], bucket.branches, bucket.length, q.shape[3]).transpose(0, 1),
                _rows(q, bucket), _rows(k, bucket, times), _rows(v, bucket, times), o, lse,
                0.0, mask is None, attn_mask=_additive(mask, q), scale=ctx.scale,
            )  # fmt: skip
            for total, grad, repeated in ((dq, gq, 1), (dk, gk, times), (dv, gv, times)):
                total[0].index_add_(1, bucket.rows, _fold_heads(_packed(grad), repeated))
        return dq, dk, dv, None, None, None


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """softmax(softcap · tanh(q·kᵀ·scale / softcap)) · v, in matrix products. mask: True = may attend."""
    scores = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        # Not −inf: a row of padding sees nothing, and NaN would spread from it.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
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
    """Attention bucket by bucket. q: [1, H, N, D]; k, v: [1, H_kv, N, D] -> [1, H, N, D]"""
    if softcap is None and q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        return _FusedTree.apply(q, k, v, batch, scale, window)  # type: ignore[no-any-return, no-untyped-call]
    times = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for bucket in buckets(batch):
        mask = window_mask(bucket.length, window, q.device)
        if mask is None:
            mask = torch.ones(bucket.length, bucket.length, dtype=torch.bool, device=q.device).tril()
        keys, values = _rows(k, bucket, times), _rows(v, bucket, times)
        o = _packed(_plain(_rows(q, bucket), keys, values, mask, scale, softcap))
        out = out.index_copy(2, bucket.home, o.index_select(1, bucket.kept)[None])
    return out


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
    shared = attention_mask is None or attention_mask.shape[1] == 1
    if query.shape[2] == 1 and shared and key.shape[1] < query.shape[1]:
        return _one_query(query, key, value, attention_mask, scale, softcap), None
    if softcap is None:
        sdpa: Any = sdpa_attention_forward
        out, _ = sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        return out, None
    times = query.shape[1] // key.shape[1]
    if attention_mask is None and query.shape[2] > 1:
        n, past = query.shape[2], key.shape[2] - query.shape[2]
        attention_mask = torch.ones(n, n + past, dtype=torch.bool, device=query.device).tril(past)
    keys, values = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    out = _plain(query, keys, values, attention_mask, scale, softcap)
    return out.transpose(1, 2).contiguous(), None


def _one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """One new token a row, [B, H, 1, D] over k, v [B, H_kv, T, D] -> [B, 1, H, D]: the query heads that share a
    key head are its queries, so that no key is repeated. mask: [B, 1, 1, T]."""
    rows, heads, _, size = q.shape
    folded = q.reshape(rows, k.shape[1], -1, size)
    if softcap is not None:
        out = _plain(folded, k, v, mask, scale, softcap)
    else:
        out = torch.nn.functional.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=scale)
    return out.reshape(rows, 1, heads, v.shape[-1])


def packed_hidden(backbone: Any, batch: PackedBatch, embeddings_ND: Tensor | None = None) -> Tensor:
    """The hidden states of a packed batch, [N, D], from a backbone that runs this file's attention.

    embeddings_ND: what it is fed in place of its own embeddings of the tokens.
    """
    fed = {"input_ids": batch.input_ids} if embeddings_ND is None else {"inputs_embeds": embeddings_ND}
    hidden: Tensor = backbone(
        **{name: tensor[None] for name, tensor in fed.items()},
        position_ids=batch.position_ids[None],
        # A 4-dimensional mask is passed on as it is, so that transformers builds no N × N one.
        attention_mask=torch.empty(1, 1, 1, 1, device=batch.input_ids.device),
        use_cache=False,
        tree=batch,
    ).last_hidden_state[0]
    return hidden


AttentionInterface.register(NAME, tree_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
