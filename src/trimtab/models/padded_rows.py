"""The fallback for families that the tree does not serve: one padded row for each completion.

It is exact too, but each prompt is computed once per completion.

Dimension suffixes: _M completion tokens, _C completions, _L row length, _D hidden, _V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch
from trimtab.models.families import without_router_logits
from trimtab.models.inputs import Inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PaddedRows:
    """Each completion's own prompt with the completion after it, without its last token, padded on the right.

    ids, mask: [C, L], int64 on the CPU. rows: the same without padding. starts: the length of each one's prompt.
    """

    ids: Tensor
    mask: Tensor
    rows: list[tuple[int, ...]]
    starts: list[int]


def padded_rows(batch: PackedBatch, pad: int = 0) -> PaddedRows:
    """A packed batch as rows, in the order of its completions."""
    prompts = [prompt for group in batch.groups for prompt in group.prompts]
    completions = [completion for group in batch.groups for completion in group.completions]
    rows = [p + c[:-1] for p, c in zip(prompts, completions, strict=True)]
    ids_CL = torch.full((len(rows), max(map(len, rows))), pad)
    mask_CL = torch.zeros_like(ids_CL)
    for i, row in enumerate(rows):
        ids_CL[i, : len(row)] = torch.tensor(row)
        mask_CL[i, : len(row)] = 1
    return PaddedRows(ids_CL, mask_CL, rows, [len(prompt) for prompt in prompts])


def rows_of(
    model: PreTrainedModel, batch: PackedBatch, inputs: Inputs, states: bool
) -> tuple[Tensor, Tensor | None]:
    """The logits that predict each completion token, [M, V], through the model's own forward pass and head.

    states: whether what the model's head read is wanted too, [M, D].
    """
    padded, device = padded_rows(batch), batch.input_ids.device
    fed = {
        **inputs.rows(batch, padded.ids.to(device)),
        "attention_mask": padded.mask.to(device),
        "use_cache": False,
        **without_router_logits(model.config),
    }

    def joined(rows_CLX: Tensor) -> Tensor:
        places = zip(padded.rows, padded.starts, strict=True)
        return torch.cat([rows_CLX[i, start - 1 : len(row)] for i, (row, start) in enumerate(places)])

    if not states:
        return joined(model(**fed).logits), None
    read: list[Tensor] = []
    # Asking for hidden states would keep every layer's, and not every family gives the last one normed.
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    try:
        logits_CLV = model(**fed).logits
    finally:
        hook.remove()
    return joined(logits_CLV), joined(read[-1])
