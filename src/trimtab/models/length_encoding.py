"""Length control by the input: how many tokens remain is encoded like a position and added to the embeddings.

Butcher, O'Keefe and Titchener 2024 (arXiv 2412.11937), with the encoding of Takase and Okazaki 2019 (arXiv
1904.07418, Eq. 3 and 4). The prompt's last token carries the length of its completion, end of turn included, each
completion token one less: what predicts the last token of all has 1. Once it is over the count stays at 1, the
lowest that training shows. Other prompt tokens carry nothing, as in the paper's offset variant. There are no new
weights; the numbers stand in the model's config. docs/methods/length_encoding.md says where we depart.

Dimension suffixes: _N packed tokens, _C completions, _L row length, _D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor, nn

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.settings import TOKENS, Settings
from trimtab.devices import in_float64
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KEY = "trimtab_length_encoding"
"""In a model's config, and of a file in an adapter's folder."""
COUNTS_FROM = "counts_from"
"""A group's column, [C]: what all its completions count down from; 0: each from its own length."""
SLICE = 4096
"""Embeddings that are measured at once."""


class LengthEncoding(Settings):
    """How a model was taught to count down."""

    model_config = ConfigDict(frozen=True)

    scale: float = Field(gt=0)
    """Of the sines and cosines."""
    base: float = Field(gt=1)
    """Of their wavelengths, 2π to 2π · base."""
    target_length: int = Field(gt=0, le=TOKENS)
    """Tokens of a completion, end of turn included, where nobody asks for another length."""
    slack: float = Field(0.0, ge=0)
    """0: completions end at the target; more: at the target or before (see SFT's settings)."""

    def vectors(self, counts: Tensor, size: int) -> Tensor:
        """Of each count n: scale · sin(n / base^(2i/size)) at 2i, scale · cos of the same at 2i + 1: [..., size].
        Zeros where n is 0, which stands for none."""
        pair = torch.arange((size + 1) // 2, device=counts.device)
        angles = counts[..., None].float() / self.base ** (2 * pair / size)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :size]
        return self.scale * waves * (counts > 0)[..., None]

    def added_to(self, embeddings: Tensor, counts: Tensor) -> Tensor:
        """The embeddings, [..., D], with the vectors of their counts added. counts: [...], or what fits it."""
        return embeddings + self.vectors(counts, embeddings.shape[-1]).to(embeddings.dtype)


def encoding_of(config: PretrainedConfig) -> LengthEncoding | None:
    """A model's, as its config has it; None where it does not count. TrimtabError where it cannot be read."""
    value = getattr(config, KEY, None)
    try:
        return None if value is None else LengthEncoding.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise TrimtabError(
            f"the model's config: {KEY}: {'.'.join(map(str, first['loc']))}: {first['msg']}. "
            "Another version of trimtab wrote it, or somebody changed it."
        ) from None


@torch.no_grad()
def scale_for(embedding: nn.Embedding, strength: float) -> float:
    """The scale at which an encoding's norm is `strength` times the root mean square norm of what the embedding
    module puts out, over the whole vocabulary: both matrices' Frobenius norms, a row."""
    entries, size = embedding.weight.shape
    total = 0.0
    for lo in range(0, entries, SLICE):
        ids = torch.arange(lo, min(lo + SLICE, entries), device=embedding.weight.device)
        total += float(in_float64(embedding(ids)).square().sum())
    return strength * math.sqrt(total / entries) / math.sqrt(size / 2)


@dataclass(frozen=True)
class Countdown:
    """last: where a row's prompt ends; start: the count there, 0 where the row has none. Tensors of one shape."""

    last: Tensor
    start: Tensor

    def at(self, place: Tensor) -> Tensor:
        """The counts at these places (they broadcast with `last`): 0 before the prompt's end, then 1 at least."""
        passed = place - self.last
        counts = (self.start - passed).clamp(min=1)
        return counts * ((passed >= 0) & (self.start > 0))

    def keep(self, index: Tensor) -> Countdown:
        """Of these rows only."""
        return Countdown(self.last[index], self.start[index])


def start_of(group: CompletionGroup, target: int | None) -> int:
    """The count at the end of a group's prompt: the target, else the group's own, else its completion's length.

    0, which is none, where the completion was cut: its end is not known. TrimtabError where completions that
    share the prompt would each have another.
    """
    asked = target or (int(group.columns[COUNTS_FROM][0]) if COUNTS_FROM in group.columns else 0)
    if asked:
        return asked
    if len(group.completions) > 1:
        raise TrimtabError(
            "length_encoding: completions of one prompt share its last token, which can count down from one length "
            "only: give the group, or the policy, a target length."
        )
    return 0 if any(group.truncated) else len(group.completions[0])


def packed_counts(batch: PackedBatch, target: int | None) -> Tensor:
    """The count of every packed token: [N]."""
    sizes = torch.tensor([group.packed_length for group in batch.groups])
    ends = torch.tensor([len(group.prompt) - 1 for group in batch.groups])
    starts = torch.tensor([start_of(group, target) for group in batch.groups])
    device = batch.position_ids.device
    spread = Countdown(*(x.repeat_interleave(sizes).to(device) for x in (ends, starts)))
    return spread.at(batch.position_ids)  # positions restart after the prompt


def row_counts(batch: PackedBatch, target: int | None, length: int) -> Tensor:
    """The same where each completion has a row of its own, of `length` tokens: [C, L]."""
    each = [(len(g.prompt) - 1, start_of(g, target)) for g in batch.groups for _ in g.completions]
    ends, starts = torch.tensor(each, device=batch.position_ids.device).T[..., None]
    return Countdown(ends, starts).at(torch.arange(length, device=ends.device))


@contextmanager
def counting_down(model: PreTrainedModel, target: int | None, columns: int) -> Iterator[None]:
    """While it lasts, `model.generate` counts down to `target` (None: the model's own) from prompts whose last
    tokens all stand in column `columns` − 1, as padding on the left has them. Nothing for a model that does not
    count; beams and samples of a prompt count alike."""
    encoding = encoding_of(model.config)
    if encoding is None:
        yield
        return
    device = model.get_input_embeddings().weight.device
    rows = Countdown(*(torch.tensor(x, device=device) for x in (columns - 1, target or encoding.target_length)))
    seen = 0

    def add(module: nn.Module, arguments: tuple[object, ...], embeddings: Tensor) -> Tensor:
        nonlocal seen
        width = embeddings.shape[1]
        # One column after the first call is the next one; more are all of them again, where nothing is cached.
        first = seen if width == 1 else 0
        seen = first + width
        return encoding.added_to(embeddings, rows.at(torch.arange(first, seen, device=device)))

    handle = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
