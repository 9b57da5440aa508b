"""Rows that grow by a token at a time: prompts computed once, then one row for each of their samples.

`Prompts` runs a batch of prompts, padded on the right, where causality alone keeps the padding out: no
mask, and no query without a key. Its cache is then copied for every sample, moved right so that all rows
end in the same column; the padding on the left is masked in every later pass. Positions are given
explicitly, so that neither side's padding moves anything.

Families whose layers one_token.py writes out grow by its pass (`OneTokenRows`), and on a CPU their prompts are
computed side by side, without padding.

Models with a state instead of keys (Mamba), chunked attention, rotary scaling that depends on the
length, or no explicit positions have no such cache: their rows are run from the start for every token,
exact and slow.

Where the policy has a length encoding, every row counts down from its prompt's last token.

Dimension suffixes: _P prompts, _B rows, _T columns, _H key heads, _D head size, _V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trimtab.data.groups import CompletionGroup, pack
from trimtab.models.attention import packed_hidden
from trimtab.models.families import has_length_dependent_rope, without_router_logits
from trimtab.models.inputs import RowInputs
from trimtab.models.keys_values import ROOM
from trimtab.models.one_token import OneTokenPass, serves
from trimtab.models.policy import Policy
from trimtab.rollout.one_token_rows import OneTokenRows


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: views [B, H, T, D] of buffers that have room for columns to come.

    Every column is kept, also where a layer sees a window of them only: the masks that transformers makes
    of a cache's sizes then cover all columns, as in a pass without a cache.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._hold(keys, values)

    def _hold(self, keys: Tensor, values: Tensor, columns: int = 0) -> None:
        """Copies into new buffers, with room for `columns` at least."""
        self.key_room, self.value_room = _roomy(keys, columns), _roomy(values, columns)
        self._show(keys.shape[2])

    def _show(self, columns: int) -> None:
        self.keys, self.values = self.key_room[:, :, :columns], self.value_room[:, :, :columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends the columns of new tokens, [B, H, t, D] each, and returns all keys and values: [B, H, T, D]."""
        old = self.keys.shape[2]
        new = old + key_states.shape[2]
        if new > self.key_room.shape[2]:
            self._hold(self.keys, self.values, new)
        self.key_room[:, :, old:new] = key_states
        self.value_room[:, :, old:new] = value_states
        self._show(new)
        return self.keys, self.values

    def reorder(self, changed: Tensor, parent: Tensor, first: int) -> None:
        """The rows `changed` take what the rows `parent` have in the columns from `first` on."""
        for x in (self.keys, self.values):
            x[changed, :, first:] = x[parent, :, first:]

    def keep(self, index: Tensor, first: int) -> None:
        """Only these rows, and their columns from `first` on."""
        keys, values = (x.index_select(0, index)[:, :, first:] for x in (self.keys, self.values))
        self._hold(keys, values)


def _roomy(x_BHTD: Tensor, columns: int) -> Tensor:
    rows, heads, length, size = x_BHTD.shape
    columns = max(columns, length)
    buffer = x_BHTD.new_empty(rows, heads, columns + columns // 2 + ROOM, size)
    buffer[:, :, :length] = x_BHTD
    return buffer


def _spread(layer: DynamicLayer, prompt_B: Tensor, pad_B: Tensor) -> GrowingLayer:
    """A row for each entry of prompt_B, moved right by its pad; what is left of a row is to be masked."""
    column_T = torch.arange(layer.keys.shape[2], device=pad_B.device)
    column_BT = (column_T - pad_B[:, None]).clamp_(min=0)
    dtype = _attended_in(layer)
    moved = (x.to(dtype).transpose(1, 2)[prompt_B[:, None], column_BT] for x in (layer.keys, layer.values))
    return GrowingLayer(*(x.transpose(1, 2) for x in moved))


class Rows(Protocol):
    """The rows of a decoding batch."""

    def advance(self, token_B: Tensor) -> Tensor:
        """Appends a token to each row. Returns the logits of the tokens after them: [B, V]."""
        ...

    def keep(self, index: Tensor) -> None:
        """Only these rows go on."""
        ...

    def reorder(self, parent_B: Tensor) -> None:
        """Each row goes on from what this row has, another of the same prompt."""
        ...


class Prompts:
    """A batch of prompts, each computed once. logits_PV: of each one's first new token.

    targets: the length that each prompt's rows count down from, for a policy that does; None: the policy's.
    one_token: what the rows grow by, where it was made before: see one_token_pass.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[int] | None = None,
        one_token: OneTokenPass | None = None,
    ) -> None:
        longest = max(map(len, prompts))
        padded = [[*prompt, *[prompt[-1]] * (longest - len(prompt))] for prompt in prompts]
        self.policy = policy
        self.one_token = one_token or one_token_pass(policy)
        self.ids_PT = torch.tensor(padded, device=policy.device)
        self.length_P = torch.tensor([len(prompt) for prompt in prompts], device=policy.device)
        self.cache = DynamicCache() if serves_cache(policy) else None
        self.inputs = policy.inputs.of_prompts(self.length_P, targets)
        self.start_P = torch.arange(len(prompts), device=policy.device) * longest
        if self.one_token is not None and policy.device.type == "cpu":
            self.start_P = self.length_P.cumsum(0) - self.length_P
            self.logits_PV = self._side_by_side(prompts, self.one_token)
        else:
            self.logits_PV = _last_logits(policy, self.ids_PT, self.length_P, self.cache, self.inputs)

    def _side_by_side(self, prompts: Sequence[Sequence[int]], one_token: OneTokenPass) -> Tensor:
        """The logits after each prompt's last token, [P, V], of a pass without padding."""
        # A packed batch feeds no completion's last token: these stand for what is to be predicted.
        batch = pack([CompletionGroup(tuple(prompt), ((prompt[-1],),)) for prompt in prompts])
        owner_N = torch.arange(len(prompts)).repeat_interleave(self.length_P)
        fed = self.inputs.keep(owner_N).next(batch.input_ids, batch.position_ids)
        hidden_ND = packed_hidden(
            self.policy.model.model, batch, {name: x[:, 0] for name, x in fed.items()}, self.cache
        )
        return one_token.head(hidden_ND[batch.source])

    def rows(self, prompt_B: Tensor) -> Rows:
        """One row for each entry, which names a prompt by its place here."""
        inputs = self.inputs.keep(prompt_B)
        length_B = self.length_P[prompt_B]
        if self.cache is None:
            return RecomputedRows(self.policy, self.ids_PT[prompt_B], length_B, inputs)
        if self.one_token is not None:
            computed = [_keys_and_values(layer) for layer in self.cache.layers]
            return OneTokenRows(self.one_token, computed, self.start_P[prompt_B], length_B, inputs)
        pad_B = self.ids_PT.shape[1] - length_B
        cache = Cache(layers=[_spread(layer, prompt_B, pad_B) for layer in self.cache.layers])
        return CachedRows(self.policy, cache, length_B, pad_B, inputs)


def one_token_pass(policy: Policy) -> OneTokenPass | None:
    """The pass that rows of this policy grow by until its weights change; None where it is transformers' own."""
    return OneTokenPass(policy.model) if policy.uses_tree and serves(policy.model) else None


def _keys_and_values(layer: DynamicLayer) -> Tensor:
    """Of all tokens of the prompts one behind the other, keys first: [N, K, D]."""
    dtype = _attended_in(layer)
    both = torch.cat([layer.keys.to(dtype), layer.values.to(dtype)], dim=1)
    return both.transpose(1, 2).flatten(0, 1)


def _attended_in(layer: DynamicLayer) -> torch.dtype:
    """What attention reads keys and values in. Under autocast that is its precision, to which it would cast all
    of them for every token: rotary embeddings and packed passes leave them in float32."""
    values: Tensor = layer.values
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


class CachedRows:
    """Rows whose keys and values are kept. length_B: tokens so far, pad_B: columns of padding on the left."""

    def __init__(self, policy: Policy, cache: Cache, length_B: Tensor, pad_B: Tensor, inputs: RowInputs) -> None:
        self.policy, self.cache, self.length_B, self.pad_B = policy, cache, length_B, pad_B
        self.inputs = inputs
        self.columns = self.prompt_columns = int(cache.layers[0].keys.shape[2])
        self.padded = bool(pad_B.any())
        config = policy.model.config
        layers = getattr(config, "layer_types", None) or ()
        self.windowed = getattr(config, "sliding_window", None) is not None or "sliding_attention" in layers

    def advance(self, token_B: Tensor) -> Tensor:
        """See Rows.advance: one pass over the new tokens."""
        self.columns += 1
        fed = self.inputs.next(token_B, self.length_B)
        inputs = {
            **fed,
            "position_ids": self.length_B[:, None],
            "attention_mask": self._mask(),
            "past_key_values": self.cache,
            "use_cache": True,
        }
        self.length_B = self.length_B + 1
        if self.policy.uses_tree:
            return self.policy.head(self.policy.model.model(**inputs).last_hidden_state[:, -1])
        inputs |= without_router_logits(self.policy.model.config)
        logits: Tensor = self.policy.model(**inputs).logits[:, -1]
        return logits

    def _mask(self) -> Tensor | None:
        if self.policy.uses_tree and not self.padded:
            return None
        column_T = torch.arange(self.columns, device=self.pad_B.device)
        mask_BT = column_T >= self.pad_B[:, None]
        # A 4-dimensional mask is passed on as it is. Windows are transformers' to add, and other
        # families may read the mask.
        return mask_BT[:, None, None] if self.policy.uses_tree and not self.windowed else mask_BT.long()

    def keep(self, index: Tensor) -> None:
        """See Rows.keep. Columns that are padding in all of them go too."""
        self.length_B, pad_B = self.length_B[index], self.pad_B[index]
        self.inputs = self.inputs.keep(index)
        first = int(pad_B.min()) if self.padded else 0
        self.pad_B = pad_B - first
        self.padded = self.padded and bool(self.pad_B.any())
        self.columns -= first
        self.prompt_columns -= first
        for layer in self.cache.layers:
            layer.keep(index, first)

    def reorder(self, parent_B: Tensor) -> None:
        """See Rows.reorder. The prompt's columns are the same already."""
        changed = (parent_B != torch.arange(len(parent_B), device=parent_B.device)).nonzero()[:, 0]
        if len(changed) and self.columns > self.prompt_columns:
            parent = parent_B[changed]
            for layer in self.cache.layers:
                layer.reorder(changed, parent, self.prompt_columns)


class RecomputedRows:
    """Rows run from the start for every token. ids_BT is padded on the right; length_B: tokens so far."""

    def __init__(self, policy: Policy, ids_BT: Tensor, length_B: Tensor, inputs: RowInputs) -> None:
        self.policy, self.ids_BT, self.length_B, self.inputs = policy, ids_BT, length_B, inputs

    def advance(self, token_B: Tensor) -> Tensor:
        """See Rows.advance: one pass over the whole rows."""
        ids_BT = torch.cat([self.ids_BT, token_B[:, None]], dim=1)
        self.ids_BT = ids_BT.scatter(1, self.length_B[:, None], token_B[:, None])
        self.length_B = self.length_B + 1
        return _last_logits(self.policy, self.ids_BT, self.length_B, None, self.inputs)

    def keep(self, index: Tensor) -> None:
        """See Rows.keep. Columns behind the longest of them go too."""
        self.length_B = self.length_B[index]
        self.inputs = self.inputs.keep(index)
        self.ids_BT = self.ids_BT[index, : int(self.length_B.max())]

    def reorder(self, parent_B: Tensor) -> None:
        """See Rows.reorder."""
        self.ids_BT = self.ids_BT[parent_B]


def serves_cache(policy: Policy) -> bool:
    """Whether each layer keeps keys and values of every token, at positions that are given."""
    if policy.uses_tree:
        return True
    model = policy.model
    takes = set(inspect.signature(model.forward).parameters)
    if getattr(model, "_is_stateful", False) or not {"position_ids", "past_key_values", "attention_mask"} <= takes:
        return False
    if has_length_dependent_rope(model.config):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    chunked = getattr(model.config, "attention_chunk_size", None) is not None
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer} and not chunked


def _last_logits(
    policy: Policy, ids_BT: Tensor, length_B: Tensor, cache: Cache | None, inputs: RowInputs
) -> Tensor:
    """The logits after each row's last token, [B, V]. ids_BT is padded on the right."""
    last_B = length_B - 1
    row_B = torch.arange(len(ids_BT), device=ids_BT.device)
    column_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    position_BT = column_T.expand_as(ids_BT)
    fed: dict[str, object] = {**inputs.whole(ids_BT), "use_cache": cache is not None}
    if policy.uses_tree:
        fed |= {"past_key_values": cache, "position_ids": position_BT}
        return policy.head(policy.model.model(**fed).last_hidden_state[row_B, last_B])
    takes = inspect.signature(policy.model.forward).parameters
    fed["attention_mask"] = (column_T < length_B[:, None]).long()
    fed |= without_router_logits(policy.model.config)
    if "position_ids" in takes:
        fed["position_ids"] = position_BT
    if cache is not None:
        fed["past_key_values"] = cache
    if "logits_to_keep" not in takes:
        logits: Tensor = policy.model(**fed).logits
        return logits[row_B, last_B]
    kept, place_B = torch.unique(last_B, return_inverse=True)
    some: Tensor = policy.model(**fed, logits_to_keep=kept).logits
    return some[row_B, place_B]
