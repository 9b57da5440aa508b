"""The keys and values of rows that grow by a token at a time.

Dimension suffixes: _B rows, _T columns, _N tokens of prompts side by side, _A heads of queries, keys and values
together, _H query heads, _K heads of keys and as many of values, _D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

ROOM = 32
"""Columns that a full buffer grows by at least; it grows by half of its length besides."""


class KeysValues:
    """Of some rows that are one behind the other in a batch, for each layer [B, K, T, D], in buffers with room.

    columns: those that are filled. pad_B: how many of them are padding, on the left of each row.
    """

    def __init__(self, layers: list[Tensor], pad_B: Tensor) -> None:
        self.columns = int(layers[0].shape[2])
        self.layers = [_roomy(layer) for layer in layers]
        self._take(pad_B)

    @classmethod
    def of_prompts(cls, computed: Sequence[Tensor], start_B: Tensor, length_B: Tensor, columns: int) -> KeysValues:
        """A row for each of these prompts, which start at these places of `computed`, [N, K, D] a layer; all end
        in the last column."""
        pad_B = columns - length_B
        column_T = torch.arange(columns, device=pad_B.device)
        place_BT = start_B[:, None] + (column_T - pad_B[:, None]).clamp_(min=0)
        return cls([layer[place_BT].transpose(1, 2) for layer in computed], pad_B)

    def __len__(self) -> int:
        return len(self.pad_B)

    def _take(self, pad_B: Tensor) -> None:
        """Takes the rows' padding, and makes what is added to scores for it, for all columns of the buffers."""
        self.pad_B, self.mask_BT = pad_B, None
        self.mask: Tensor | None = None
        if bool(pad_B.any()):
            column_T = torch.arange(self.layers[0].shape[2], device=pad_B.device)
            hidden_BT = column_T < pad_B[:, None]
            mask_BT = torch.zeros(hidden_BT.shape, dtype=self.layers[0].dtype, device=pad_B.device)
            self.mask_BT = mask_BT.masked_fill_(hidden_BT, -torch.inf)

    def grow(self) -> None:
        """Makes room for a column, which `attended` fills layer by layer."""
        if self.columns == self.layers[0].shape[2]:
            self.layers = [_roomy(layer) for layer in self.layers]
            self._take(self.pad_B)
        self.columns += 1
        self.mask = None if self.mask_BT is None else self.mask_BT[:, None, None, : self.columns]

    def attended(self, place: int, new_BAD: Tensor, heads: int, scale: float) -> Tensor:
        """Puts one new token a row into a layer and lets its queries, the first `heads` of A, look at all of the
        row's: [B, H · D]. new_BAD: contiguous."""
        room = self.layers[place]
        room.select(2, self.columns - 1).copy_(new_BAD[:, heads:])
        if new_BAD.dtype != room.dtype:  # under autocast
            new_BAD = new_BAD.to(room.dtype)
        rows, both, _, size = room.shape
        strides, shared = room.stride(), 2 * heads // both
        shape = rows, both // 2, self.columns, size
        # Each view in one call: their number is what a small model's pass costs.
        keys = room.as_strided(shape, strides)
        values = room.as_strided(shape, strides, both // 2 * strides[1])
        # The query heads that share a key head are its queries, so that no key is repeated.
        whole = new_BAD.shape[1] * size
        query = new_BAD.as_strided((rows, both // 2, shared, size), (whole, shared * size, size, 1))
        out = functional.scaled_dot_product_attention(query, keys, values, attn_mask=self.mask, scale=scale)
        return out.flatten(1)

    def keep(self, index: Tensor) -> None:
        """Only these rows go on. Columns that are padding in all of them go too."""
        pad_B = self.pad_B[index]
        first = int(pad_B.min())
        self.columns -= first
        for place, layer in enumerate(self.layers):
            kept = layer.narrow(2, first, self.columns).index_select(0, index)
            self.layers[place] = room = layer[: len(index)]  # in its place: new memory costs more than the copy
            room[:, :, : self.columns] = kept
        self._take(pad_B - first)

    def reorder(self, parent_B: Tensor, count: int) -> None:
        """Each row takes what this row has in the last `count` columns."""
        for layer in self.layers:
            last = layer.narrow(2, self.columns - count, count)
            last.copy_(last.index_select(0, parent_B))  # of all rows: faster than to pick those that change


def _roomy(x_BKTD: Tensor) -> Tensor:
    """A copy in a buffer that has room for columns to come."""
    rows, heads, length, size = x_BKTD.shape
    buffer = x_BKTD.new_empty(rows, heads, length + length // 2 + ROOM, size)
    buffer[:, :, :length] = x_BKTD
    return buffer
