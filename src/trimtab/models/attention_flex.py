"""Tree attention through FlexAttention: the tree as a block mask, compiled on CUDA; the same numbers on the CPU.

Dimension suffixes: _H heads, _N packed tokens, _D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch


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


def tree_mask(batch: PackedBatch, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The whole pattern as FlexAttention's mask_mod(batch, head, query, key)."""
    group, branch = tree_ids(batch)
    position = batch.position_ids

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
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
    """q: [1, H, N, D]; k, v: [1, H_kv, N, D] -> [1, H, N, D]. The block mask is made once a batch and window."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    key = f"block_mask:{window}"
    if key not in batch.cache:
        n = batch.tokens
        batch.cache[key] = create_block_mask(tree_mask(batch, window), None, None, n, n, device=str(q.device))

    def cap(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    run: Callable[..., object] = flex_attention
    if q.device.type == "cuda":
        run = _compiled_flex()
    out = run(
        q, k, v,
        score_mod=None if softcap is None else cap,
        block_mask=batch.cache[key], scale=scale, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out


_FLEX: list[Callable[..., object]] = []


def _compiled_flex() -> Callable[..., object]:
    if not _FLEX:
        from torch.nn.attention.flex_attention import flex_attention

        _FLEX.append(torch.compile(flex_attention, dynamic=True))
    return _FLEX[0]
