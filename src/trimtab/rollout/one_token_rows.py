"""Rows that grow by the pass of models/one_token.py; see rows.py.

Dimension suffixes: _B rows, _N tokens of all prompts, _K heads of keys and as many of values, _D head size,
_V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trimtab.models.inputs import RowInputs
from trimtab.models.keys_values import KeysValues
from trimtab.models.one_token import OneTokenPass

PADDING = 2**16
"""Entries of padding in a layer that rows may have for being looked at together: more cost more than a call."""


class OneTokenRows:
    """Rows that grow by one_token.py's pass. computed: keys and values of all prompts by layer, [N, K, D], of which
    each row's start at start_B and are length_B tokens.

    On a CPU rows of unlike lengths are kept apart, so that the short ones have less padding to look at.
    """

    def __init__(
        self, one_token: OneTokenPass, computed: list[Tensor], start_B: Tensor, length_B: Tensor, inputs: RowInputs
    ) -> None:
        self.one_token, self.length_B, self.inputs, self.new = one_token, length_B, inputs, 0
        entries = computed[0].shape[1] * computed[0].shape[2]
        lengths: list[int] = length_B.tolist()
        sizes = _alike(lengths, PADDING // entries) if length_B.device.type == "cpu" else [len(lengths)]
        parts = zip(torch.split(start_B, sizes), torch.split(length_B, sizes), strict=True)
        self.stores = [KeysValues.of_prompts(computed, start, length, int(length.max())) for start, length in parts]

    def advance(self, token_B: Tensor) -> Tensor:
        """See Rows.advance: one pass over the new tokens."""
        self.new += 1
        logits_BV = self.one_token(self.inputs.next(token_B, self.length_B), self.length_B, self.stores)
        self.length_B = self.length_B + 1
        return logits_BV

    def _parts(self, place_B: Tensor) -> Iterator[tuple[KeysValues, Tensor]]:
        """Each store, and which of its own rows are among these, which ascend."""
        first = 0
        for store in self.stores:
            inside = (place_B >= first) & (place_B < first + len(store))
            yield store, place_B[inside] - first
            first += len(store)

    def keep(self, index: Tensor) -> None:
        """See Rows.keep."""
        self.length_B, self.inputs = self.length_B[index], self.inputs.keep(index)
        left = [(store, own) for store, own in self._parts(index) if len(own)]
        for store, own in left:
            store.keep(own)
        self.stores = [store for store, _ in left]

    def reorder(self, parent_B: Tensor) -> None:
        """See Rows.reorder. The prompt's columns are the same already."""
        first = 0
        for store in self.stores:
            own = parent_B[first : first + len(store)] - first
            if self.new and bool((own != torch.arange(len(own), device=own.device)).any()):
                store.reorder(own, self.new)
            first += len(store)


def _alike(lengths: Sequence[int], most: int) -> list[int]:
    """How many rows in a row go together, so that each time at most about `most` columns are padding."""
    sizes, padding = [0], 0
    for place, length in enumerate(lengths):
        grown = length - lengths[place - 1] if sizes[-1] else 0
        padding += max(grown, 0) * sizes[-1] + max(-grown, 0)
        if sizes[-1] and padding > most:
            sizes.append(0)
            padding = 0
        sizes[-1] += 1
    return sizes
