"""A single new token a row: grouped heads without repeated keys give what repeated keys give."""

from __future__ import annotations

import pytest
import torch

from trimtab.models.attention import tree_attention_forward


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 1), (3, 3)])
def test_grouped_heads_are_queries(heads: int, kv_heads: int, softcap: float | None, masked: bool) -> None:
    """Head h reads key head h // (H / H_kv), as the definition has it: written out head by head."""
    torch.manual_seed(0)
    rows, columns, size, scale = 3, 7, 4, 0.4
    q = torch.randn(rows, heads, 1, size)
    k, v = torch.randn(2, rows, kv_heads, columns, size).unbind()
    seen = torch.arange(columns) >= torch.tensor([0, 2, 6])[:, None]
    mask = seen[:, None, None] if masked else None
    module = torch.nn.Module()
    module.num_key_value_groups = heads // kv_heads  # type: ignore[assignment]
    module.is_causal = True  # type: ignore[assignment]
    found, _ = tree_attention_forward(module, q, k, v, mask, scaling=scale, softcap=softcap)
    for b in range(rows):
        for h in range(heads):
            own = h // (heads // kv_heads)
            scores = k[b, own] @ q[b, h, 0] * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if masked:
                scores = scores[seen[b]]
            values = v[b, own][seen[b]] if masked else v[b, own]
            torch.testing.assert_close(found[b, 0, h], torch.softmax(scores, 0) @ values, rtol=1e-5, atol=1e-6)
