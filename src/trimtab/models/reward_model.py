"""The reward model: a backbone with a scalar head, which gives each completion a score.

`RewardModel.forward(batch)` takes the same packed batches as the policy, of groups made by `for_scoring`.
It is a transformers sequence classifier with one label, and scores as transformers' own forward does:
a decoder at the row's last token that is not config.pad_token_id, an encoder as its class pools. Families
that serve the tree compute a prompt once for all its completions; others run padded rows.

Dimension suffixes: _C completions, _N packed tokens, _L row length, _D hidden.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.pairs import RewardFormat
from trimtab.errors import TrimtabError
from trimtab.models import attention
from trimtab.models.folder import save_folder
from trimtab.models.length_encoding import KEY
from trimtab.models.lora import add_lora, merged
from trimtab.models.policy import ModelSettings, _disable_dropout, _serves_tree, check_model_source

HEAD_STD = 0.02
"""Of a new head's weights: scores start near 0, and the Bradley-Terry loss near ln 2."""


def for_scoring(group: CompletionGroup) -> CompletionGroup:
    """The group with a token appended to each completion. A packed batch does not feed a completion's last
    token, but a score is read there; the token appended is never fed and never read."""
    return replace(group, completions=tuple((*c, 0) for c in group.completions))


class RewardModel(nn.Module):
    """A sequence classifier with one label, and how to read scores of completion groups off it.

    new_head: whether the head has not been trained yet; then `bind` is free to choose the pad token.
    """

    def __init__(self, model: Any, source: str = "", new_head: bool = False, adapter: Any = None) -> None:
        super().__init__()
        self._adapter = [adapter]  # in a list, since it holds the model: no second name for each weight
        self.model = model
        self.source = source
        self.new_head = new_head
        self.is_decoder = isinstance(getattr(model, "score", None), nn.Linear)
        self.uses_tree = self.is_decoder and _serves_tree(model.config)
        self.token_types = not self.is_decoder and self._knows_token_types
        if adapter is None:
            _disable_dropout(model)  # an adapter's own dropout stays
        if self.uses_tree:
            model.set_attn_implementation(attention.NAME)
        elif self.is_decoder:
            warnings.warn(
                f"{model.config.model_type}: no tree attention for this family; using padded rows, which "
                "compute each prompt once per completion",
                stacklevel=2,
            )

    @property
    def _knows_token_types(self) -> bool:
        return (getattr(self.model.config, "type_vocab_size", None) or 0) > 1

    @property
    def device(self) -> torch.device:
        return torch.device(next(self.model.parameters()).device)

    @property
    def pad_token_id(self) -> int | None:
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
        """One score for each completion: float32 [C]."""
        if not self.uses_tree:
            return self._forward_rows(batch)
        hidden_ND = attention.packed_hidden(self.model.base_model, batch)
        places = torch.tensor(self._places(batch), device=hidden_ND.device)
        return self._head(hidden_ND.index_select(0, places))

    def _head(self, hidden_CD: Tensor) -> Tensor:
        # Out of autocast: bf16 would leave a score 8 bits, and pairs differ by less.
        with torch.autocast(hidden_CD.device.type, enabled=False):
            scores: Tensor = self.model.score(hidden_CD.to(self.model.score.weight.dtype))[:, 0]
        return scores.float()

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
        prompts = [prompt for group in batch.groups for prompt in group.prompts]
        completions = [completion for group in batch.groups for completion in group.completions]
        rows = [p + c[:-1] for p, c in zip(prompts, completions, strict=True)]
        ids_CL = torch.full((len(rows), max(map(len, rows))), self.pad_token_id or 0)
        mask_CL, types_CL = torch.zeros_like(ids_CL), torch.zeros_like(ids_CL)
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            ids_CL[i, : len(row)] = torch.tensor(row)
            mask_CL[i, : len(row)] = 1
            types_CL[i, len(prompt) : len(row)] = 1
        device = batch.input_ids.device
        inputs = {"input_ids": ids_CL.to(device), "attention_mask": mask_CL.to(device)}
        if not self.is_decoder:
            if self.token_types:
                inputs["token_type_ids"] = types_CL.to(device)
            logits: Tensor = self.model(**inputs).logits
            return logits[:, 0].float()
        hidden_CLD = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        places = torch.tensor([self._read_at(row) for row in rows], device=device)
        return self._head(hidden_CLD[torch.arange(len(rows), device=device), places])

    def save(self, folder: Path) -> None:
        """Writes a plain transformers sequence classifier; ValueError for a decoder that was never bound and
        has no pad token, since transformers could not tell where to read its padded rows."""
        if self.is_decoder and self.pad_token_id is None:
            raise ValueError("the reward model has no pad token: call bind(format) first")
        adapter = self._adapter[0]
        plain = self.model if adapter is None else merged(adapter)
        save_folder(plain, folder, self.source)


def load_reward_model(
    source: str, settings: ModelSettings | None = None, *, seed: int = 0, new_head: bool = True
) -> RewardModel:
    """Loads a reward model in float32: a sequence classifier with one label as it is; the backbone of any
    other folder (causal language model, encoder) gets a new head drawn from `seed`.

    new_head=False: only a trained head will do. TrimtabError for weights that lack what would be random.
    """
    settings = settings or ModelSettings()
    check_model_source(source, settings)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(f"model {source}: its config cannot be read: {_first_line(error)}") from error
    trained = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    _check_config(source, config, trained, new_head)
    try:
        with torch.random.fork_rng(devices=[]):  # transformers draws the missing weights
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, num_labels=1, **settings.loading
            )
    except Exception as error:
        reason = _first_line(error)
        raise TrimtabError(f"model {source}: cannot be loaded as a sequence classifier: {reason}") from error
    missing = sorted(info.get("missing_keys", []))
    random = [name for name in missing if trained or not _may_be_new(name, model)]
    if random:
        raise TrimtabError(
            f"model {source}: the weights lack {len(random)} tensors ({random[0]}, …), which would be random. "
            "The folder is incomplete, or holds another kind of model."
        )
    _draw(model, missing, seed)
    if hasattr(model.config, KEY):  # a reward model reads what is written: there is nothing to count down to
        delattr(model.config, KEY)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    adapter = None
    if settings.lora is not None:
        _disable_dropout(model)
        adapter = add_lora(model, settings.lora, seed, source, head=_head(source, model))
    return RewardModel(model, source, new_head=not trained, adapter=adapter)


def _head(source: str, model: Any) -> nn.Module:
    """The part of a sequence classifier that scores."""
    for name in ("score", "classifier"):
        if isinstance(head := getattr(model, name, None), nn.Module):
            return head
    raise TrimtabError(f"model {source}: no known scoring head, which LoRA would have to leave alone.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_config(source: str, config: Any, trained: bool, new_head: bool) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise TrimtabError(
            f"model {source}: an encoder-decoder can't be a reward model here; name a decoder or an encoder."
        )
    if trained and config.num_labels != 1:
        raise TrimtabError(
            f"model {source}: a classifier with {config.num_labels} labels; a reward model has one (num_labels=1)."
        )
    if not trained and not new_head:
        kind = ", ".join(config.architectures or ()) or config.model_type
        raise TrimtabError(
            f"model {source}: no sequence classifier but {kind}, whose scoring head would be random. "
            "Name a trained reward model. (Nemotron's -HF ones are language models: reward kind nemotron_local.)"
        )


def _may_be_new(name: str, model: Any) -> bool:
    """The head, and an encoder's pooler, which models trained on masked tokens come without."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def _draw(model: Any, names: list[str], seed: int) -> None:
    """New weights: matrices normal with HEAD_STD, biases 0, scales of norms 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            weight = model.get_parameter(name)
            if weight.ndim > 1:
                weight.normal_(std=HEAD_STD, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
