"""The reward model: a backbone with a scalar head, which gives each completion a score.

`RewardModel.forward(batch)` takes the same packed batches as the policy, of groups made by `for_scoring`.
It is a transformers sequence classifier with one label, and scores as transformers' own forward does:
a decoder at the row's last token that is not config.pad_token_id, an encoder as its class pools. Families
that serve the tree compute a prompt once for all its completions; others run padded rows.

Dimension suffixes: _C completions, _N packed tokens, _L row length, _D hidden.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from trimtab.data.adapters import base_of, is_adapter
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.pairs import RewardFormat
from trimtab.errors import TrimtabError, reason_of
from trimtab.models import attention
from trimtab.models.families import serves_tree
from trimtab.models.folder import save_folder
from trimtab.models.gguf.place import model_place
from trimtab.models.inputs import forget_inputs
from trimtab.models.kinds import HEADS, check_model_source, kind_of
from trimtab.models.loading import load_policy, spare_memory
from trimtab.models.lora import AdapterHandle, adapter_shapes, add_lora, load_adapter, merged
from trimtab.models.padded_rows import padded_rows
from trimtab.models.policy import disable_dropout
from trimtab.models.settings import ModelSettings
from trimtab.models.weights import HOW, check_finite, refuse_unfit
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


HEAD_STD = 0.02
"""Of a new head's weights: scores start near 0, and the Bradley-Terry loss near ln 2."""


def for_scoring(group: CompletionGroup) -> CompletionGroup:
    """The group with a token appended to each completion. A packed batch does not feed a completion's last
    token, but a score is read there; the token appended is never fed and never read."""
    return replace(group, completions=tuple((*c, 0) for c in group.completions))


class RewardModel(nn.Module):
    """A sequence classifier with one label, or one a head, and how to read scores of completion groups off it.

    new_head: whether the head has not been trained yet; then `bind` is free to choose the pad token.
    """

    def __init__(
        self, model: PreTrainedModel, source: str = "", new_head: bool = False, adapter: AdapterHandle | None = None
    ) -> None:
        super().__init__()
        self._adapter = [adapter]  # in a list, since it holds the model: no second name for each weight
        self.model = model
        self.source = source
        self.new_head = new_head
        self.is_decoder = isinstance(getattr(model, "score", None), nn.Linear)
        self.uses_tree = self.is_decoder and serves_tree(model.config)
        self.token_types = not self.is_decoder and self._knows_token_types
        if adapter is None:
            disable_dropout(model)  # an adapter's own dropout stays
        if self.uses_tree:
            model.set_attn_implementation(attention.NAME)
        elif self.is_decoder:
            warn(
                f"{model.config.model_type}: no tree attention for this family; using padded rows, which "
                "compute each prompt once per completion"
            )

    @property
    def _knows_token_types(self) -> bool:
        return (getattr(self.model.config, "type_vocab_size", None) or 0) > 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(next(self.model.parameters()).device)

    @property
    def heads(self) -> int:
        """How many scores it gives a completion."""
        heads: int = self.model.config.num_labels
        return heads

    @property
    def pad_token_id(self) -> int | None:
        """The config's: a decoder is read before the row's tokens of this id."""
        pad: int | None = self.model.config.get_text_config().pad_token_id
        return pad

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest row; None where there is no limit."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                limit = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from behind its padding
        return limit

    def bind(self, form: RewardFormat) -> None:
        """Takes on the format that its rows will have. Call once, before training or scoring.

        Transformers reads a decoder at the last token that isn't padding. A trained head keeps the pad
        token that it was trained with; for a new one (or none) it becomes one that ends no row, so that the
        saved folder is read at the row's last token. The tokenizer pads with it from then on.
        """
        self.token_types = form.token_types and self._knows_token_types
        config = self.model.config.get_text_config()
        form.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        if self.new_head or config.pad_token_id is None:
            config.pad_token_id = form.pad_token_id
        if config.pad_token_id is not None and form.tokenizer.pad_token_id != config.pad_token_id:
            form.tokenizer.pad_token = form.tokenizer.convert_ids_to_tokens(config.pad_token_id)

    def forward(self, batch: PackedBatch) -> Tensor:
        """One score for each completion: float32 [C]; with several heads [C, H]."""
        if not self.uses_tree:
            return self._forward_rows(batch)
        hidden_ND = attention.packed_hidden(self.model.base_model, batch)
        places = torch.tensor(self._places(batch), device=hidden_ND.device)
        return self._head(hidden_ND.index_select(0, places))

    def _head(self, hidden_CD: Tensor) -> Tensor:
        # Out of autocast: bf16 would leave a score 8 bits, and pairs differ by less.
        with torch.autocast(hidden_CD.device.type, enabled=False):
            scores: Tensor = self.model.score(hidden_CD.to(self.model.score.weight.dtype))
        return self._of_heads(scores)

    def _of_heads(self, scores_CH: Tensor) -> Tensor:
        return (scores_CH if self.heads > 1 else scores_CH[:, 0]).float()

    def _read_at(self, row: tuple[int, ...]) -> int:
        """Where transformers reads a decoder's score: at the last token that isn't padding, else the first."""
        pad = self.pad_token_id
        return next((i for i in reversed(range(len(row))) if row[i] != pad), 0)

    def _places(self, batch: PackedBatch) -> list[int]:
        """The packed position at which each completion's score is read."""
        places = []
        for group, segment in zip(batch.groups, batch.segments, strict=True):
            branches = zip(group.prompts, group.completions, segment.completions, strict=True)
            for prompt, completion, (first, _) in branches:
                behind = self._read_at(prompt + completion[:-1]) - len(group.prompt)
                places.append(first + behind if behind >= 0 else segment.prompt[1] + behind)
        return places

    def _forward_rows(self, batch: PackedBatch) -> Tensor:
        """One row for each completion, padded on the right."""
        padded, device = padded_rows(batch, self.pad_token_id or 0), batch.input_ids.device
        inputs = {"input_ids": padded.ids.to(device), "attention_mask": padded.mask.to(device)}
        if not self.is_decoder:
            if self.token_types:
                types_CL = torch.zeros_like(padded.ids)
                for i, (row, start) in enumerate(zip(padded.rows, padded.starts, strict=True)):
                    types_CL[i, start : len(row)] = 1
                inputs["token_type_ids"] = types_CL.to(device)
            logits: Tensor = self.model(**inputs).logits
            return self._of_heads(logits)
        hidden_CLD = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        places = torch.tensor([self._read_at(row) for row in padded.rows], device=device)
        return self._head(hidden_CLD[torch.arange(len(places), device=device), places])

    def save(self, folder: Path) -> None:
        """Writes a plain transformers sequence classifier; ValueError for a decoder that was never bound and
        has no pad token, since transformers could not tell where to read its padded rows."""
        if self.is_decoder and self.pad_token_id is None:
            raise ValueError("the reward model has no pad token: call bind(format) first")
        adapter = self._adapter[0]
        plain = self.model if adapter is None else merged(adapter)
        save_folder(plain, folder, self.source)


def load_reward_model(
    source: str, settings: ModelSettings | None = None, *, seed: int = 0, new_head: bool = True, heads: int = 1
) -> RewardModel:
    """Loads a reward model in float32: a sequence classifier with one label, or with a label a head, as it is; the
    backbone of any other folder (causal language model, encoder) gets new heads drawn from `seed`. An adapter is
    merged.

    new_head=False: only trained heads will do. TrimtabError for weights that lack what would be random, and for a
    reward model that has another number of heads than the several that are wanted.
    """
    settings, source = settings or ModelSettings(), model_place(source)
    check_model_source(source, settings, "start of a reward model" if new_head else "reward model")
    kind = kind_of(source, settings)
    trained = kind.name == "classifier"
    has = int(getattr(kind.config, HEADS, 1)) if trained else heads
    if new_head and has != heads and heads > 1:
        raise TrimtabError(
            f"model {source}: a reward model of {has} heads, not {heads}. Begin with a language model."
        )
    model = _load_classifier(source, settings, seed, trained, has)
    if has > 1:
        setattr(model.config, HEADS, has)
    model.requires_grad_(True)  # peft froze what an adapter stood on
    forget_inputs(model.config)
    spare_memory(model, settings.gradient_checkpointing)
    adapter = None
    if settings.lora is not None:
        disable_dropout(model)
        adapter = add_lora(model, settings.lora, seed, source, head=_head(source, model))
    return RewardModel(model, source, new_head=not trained, adapter=adapter)


def _load_classifier(
    source: str, settings: ModelSettings, seed: int, trained: bool, heads: int = 1
) -> PreTrainedModel:
    """trained: whether the heads have to be there."""
    if not is_adapter(source):
        return _read(source, settings, seed, trained, heads)
    if not trained:  # of a language model: read merged, its head left behind
        return _with_new_head(load_policy(source, settings.model_copy(update={"lora": None})).model, seed, heads)
    base = base_of(source)
    of_classifier = kind_of(base, settings).name == "classifier"
    _check_head(source, there_already=of_classifier)
    return merged(load_adapter(_load_classifier(base, settings, seed, of_classifier), source))


def _check_head(source: str, there_already: bool) -> None:
    """TrimtabError where an adapter of a classifier brings none, or one of several labels."""
    brought = [
        shape for name, shape in adapter_shapes(source).items() if re.search(r"\.(score|classifier)\.", name)
    ]
    if not brought and not there_already:
        raise TrimtabError(
            f"adapter {source}: of a sequence classifier, but without its head, which would be random: it was to "
            "be among peft's modules_to_save. Name the merged model."
        )
    labels = [shape[0] for shape in brought if len(shape) == 2]
    if any(count != 1 for count in labels[-1:]):
        raise TrimtabError(
            f"adapter {source}: of a classifier with {labels[-1]} labels; a reward model has one (num_labels=1)."
        )


def _read(source: str, settings: ModelSettings, seed: int, trained: bool, heads: int) -> PreTrainedModel:
    """transformers' sequence classifier of a model's folder or hub name."""
    try:
        with torch.random.fork_rng(devices=[]):  # transformers draws the missing weights
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=torch.float32, num_labels=heads, **HOW, **settings.loading
            )
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(
            f"model {source}: cannot be loaded as a sequence classifier: {reason_of(error)}"
        ) from error
    refuse_unfit(source, model, info, lambda name: not trained and _may_be_new(name, model))
    missing = sorted(info.get("missing_keys", []))
    _draw(model, missing, seed)
    check_finite(source, "model", model.state_dict().items())
    return model


def _with_new_head(causal: PreTrainedModel, seed: int, heads: int) -> PreTrainedModel:
    """A sequence classifier on a language model's backbone, which it takes."""
    config = copy.deepcopy(causal.config)
    config.num_labels = heads
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    if model.base_model_prefix != causal.base_model_prefix:
        raise TrimtabError(f"model {causal.name_or_path}: its family's classifier has another backbone.")
    setattr(model, model.base_model_prefix, getattr(causal, causal.base_model_prefix))
    head = [name for name, weight in model.named_parameters() if weight.is_meta]
    for name in head:
        place, _, last = name.rpartition(".")
        module = model.get_submodule(place)
        setattr(module, last, nn.Parameter(torch.empty(module.get_parameter(last).shape)))
    _draw(model, head, seed)
    return model.eval()


def _head(source: str, model: PreTrainedModel) -> nn.Module:
    """The part of a sequence classifier that scores."""
    for name in ("score", "classifier"):
        if isinstance(head := getattr(model, name, None), nn.Module):
            return head
    raise TrimtabError(f"model {source}: no known scoring head, which LoRA would have to leave alone.")


def _may_be_new(name: str, model: PreTrainedModel) -> bool:
    """The head, and an encoder's pooler, which models trained on masked tokens come without."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def _draw(model: PreTrainedModel, names: list[str], seed: int) -> None:
    """New weights: matrices normal with HEAD_STD, biases 0, scales of norms 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            weight = model.get_parameter(name)
            if weight.ndim > 1:
                weight.normal_(std=HEAD_STD, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
