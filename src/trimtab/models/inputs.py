"""What a model is fed for its tokens: their ids, or more where its config asks for more.

This is the one hook of length_encoding.py. Samplers, evaluation, saving and reading back ask `policy.inputs`,
or a function here where there is only a model, and know of no encoding.

Dimension suffixes: _P prompts, _B rows, _C completions, _L row length, _N packed tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonValue
from trimtab.models.length_encoding import (
    KEY,
    Countdown,
    LengthEncoding,
    counting_down,
    encoding_of,
    packed_counts,
    row_counts,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Inputs:
    """The inputs of one model.

    encoding: how it counts down, or None where it is fed ids alone. target: what it then counts down from for every
    completion; None: from each one's own length. TrimtabError for a config that cannot be read.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.encoding = encoding_of(model.config)
        self.target: int | None = None

    def adopt(self, encoding: LengthEncoding) -> None:
        """Gives the model a length encoding, which its config keeps."""
        self.encoding = encoding
        setattr(self.model.config, KEY, encoding.model_dump())

    def hold_target(self) -> None:
        """From now on every completion counts down from the target in the model's config, if it counts at all."""
        if self.encoding is not None:
            self.target = self.encoding.target_length

    @property
    def key(self) -> str:
        """What log-probabilities depend on beside weights, tokens and precision; empty where that is nothing."""
        return "" if self.encoding is None else f"|{self.encoding.model_dump_json()}|{self.target}"

    def packed(self, batch: PackedBatch) -> dict[str, Tensor]:
        """The arguments for a packed batch: [N] or [N, D]."""
        return self._fed(batch.input_ids, None if self.encoding is None else packed_counts(batch, self.target))

    def rows(self, batch: PackedBatch, ids_CL: Tensor) -> dict[str, Tensor]:
        """The arguments for a batch whose completions have a row each: [C, L] or [C, L, D]."""
        counts_CL = None if self.encoding is None else row_counts(batch, self.target, ids_CL.shape[1])
        return self._fed(ids_CL, counts_CL)

    def of_prompts(self, length_P: Tensor, targets: Sequence[int] | None = None) -> RowInputs:
        """The inputs of rows that grow from prompts of these lengths. targets: what each one's completions count
        down from; None: what the policy is held to, else the config's."""
        own = 0 if self.encoding is None else self.target or self.encoding.target_length
        start_P = torch.tensor(targets or [own] * len(length_P), device=length_P.device)
        return RowInputs(self, Countdown(length_P - 1, start_P))

    def generating(self, columns: int) -> AbstractContextManager[None]:
        """While it lasts, `model.generate` is fed what samples are. columns: of its prompts, padded on the left."""
        return feeding(self.model, columns, self.target)

    @contextmanager
    def ids_alone(self) -> Iterator[None]:
        """While it lasts, the model is fed ids alone, as other software would."""
        encoding, self.encoding = self.encoding, None
        try:
            yield
        finally:
            self.encoding = encoding

    def refuse(self, source: str) -> None:
        """TrimtabError for a model that is fed more than ids, where a method cannot carry that on."""
        if self.encoding is not None:
            raise TrimtabError(
                f"model {source}: counts down to a target length (sft.length_encoding), and this method's "
                "completions have lengths of their own. Start from a model without, or go on with sft or grpo."
            )

    def save_beside(self, adapter: Path) -> None:
        """Writes into an adapter's folder, which has no config of a model, what `read_beside` reads."""
        if self.encoding is not None:
            written = self.encoding.model_dump_json(indent=2)
            (adapter / f"{KEY}.json").write_text(written + "\n", encoding="utf-8")

    def _fed(self, ids: Tensor, counts: Tensor | None) -> dict[str, Tensor]:
        """ids as they are, or embedded with their counts."""
        if self.encoding is None or counts is None:
            return {"input_ids": ids}
        return {"inputs_embeds": self.encoding.added_to(self.model.get_input_embeddings()(ids), counts)}


class RowInputs:
    """The inputs of rows that grow token by token."""

    def __init__(self, inputs: Inputs, countdown: Countdown) -> None:
        self._inputs, self._countdown = inputs, countdown

    def keep(self, index_B: Tensor) -> RowInputs:
        """Of these rows only."""
        return RowInputs(self._inputs, self._countdown.keep(index_B))

    def next(self, token_B: Tensor, place_B: Tensor) -> dict[str, Tensor]:
        """The arguments for one new token a row, which stands at this place in it: [B, 1] or [B, 1, D]."""
        if self._inputs.encoding is None:
            return {"input_ids": token_B[:, None]}
        return self._inputs._fed(token_B[:, None], self._countdown.at(place_B)[:, None])

    def whole(self, ids_BL: Tensor) -> dict[str, Tensor]:
        """The arguments for whole rows: [B, L] or [B, L, D]."""
        columns = Countdown(self._countdown.last[:, None], self._countdown.start[:, None])
        return self._inputs._fed(ids_BL, columns.at(torch.arange(ids_BL.shape[1], device=ids_BL.device)))


def feeding(model: PreTrainedModel, columns: int, target: int | None) -> AbstractContextManager[None]:
    """While it lasts, `model.generate` is fed what the model's config asks for. columns: of the prompts, padded on
    the left. target: tokens of a completion; None: the config's."""
    return counting_down(model, target, columns)


def refuse_inputs_in_vllm(config: PretrainedConfig) -> None:
    """TrimtabError for a model that is fed more than ids."""
    if getattr(config, KEY, None) is not None:
        raise TrimtabError(
            "engine vllm: this model counts down to a target length (sft.length_encoding), which vLLM has no input "
            "for: choose engine transformers."
        )


def forget_inputs(config: PretrainedConfig) -> None:
    """For a reward model, which reads what is written: there is nothing to count down to."""
    if hasattr(config, KEY):
        delattr(config, KEY)


def read_beside(config: PretrainedConfig, adapter: Path) -> None:
    """Gives a config what `Inputs.save_beside` wrote into an adapter's folder, if it did."""
    kept = adapter / f"{KEY}.json"
    if kept.is_file():
        setattr(config, KEY, json.loads(kept.read_text(encoding="utf-8")))


def describe_inputs(config: Mapping[str, JsonValue]) -> list[str]:
    """A section of a model card on what the model is fed beside ids; nothing where it is not."""
    encoding = config.get(KEY)
    if encoding is None:
        return []
    ends = "at that length or before" if encoding["slack"] else "at that length"
    return [
        "## Target length\nThis model is told in its input how many tokens remain, and was trained to end its "
        f"answers {ends} (Butcher et al. 2024, arXiv 2412.11937; the numbers are in config.json, `{KEY}`). "
        f"**trimtab gives it that input**: {encoding['target_length']} tokens where nobody asks, others "
        "by `trimtab generate --set decoding.target_length=40`. transformers, vLLM and other software do not: "
        "there it has no target, and lacks an input that it was trained with."
    ]
