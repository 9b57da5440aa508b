"""A saved model folder, read as a stranger would: by transformers' Auto classes, without trimtab.

Done twice in a stage: on the model as it starts, before anything is spent, and on the first weights that training
has changed (a new adapter adds nothing before that). Log-probabilities (scores, of a reward model) of two short
rows, tokens of probe texts, and the tokens that end and pad must be those of the model in memory. While it is
compared there is a second copy of the model, in the room that freed gradients had. Nothing is drawn, and nothing in
memory changes.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.pairs import PairFormat, TurnFormat
from trimtab.data.tokenizer import FILE, first_difference, probes_of
from trimtab.devices import release_freed_memory
from trimtab.errors import TrimtabError, first_line, is_out_of_memory, reason_of
from trimtab.json_types import JsonObject
from trimtab.models.lora import ADAPTER
from trimtab.models.policy import Policy
from trimtab.models.quantized import is_quantized
from trimtab.models.reward_model import RewardModel, for_scoring
from trimtab.notices import warn
from trimtab.training.checkpoint import random_states, set_random_states
from trimtab.training.stage_method import TextFormat, TrainedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

AutoClass: TypeAlias = type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification]

ROWS, TOKENS = 2, 64
NEAR, NEAR_IN_FOUR_BITS = 0.01, 0.5
"""Nats, or points of a score: rounding is less, another model more."""
TRIAL = ".trial.tmp"
ENDS = ("eos_token_id", "pad_token_id")
NOT_COMPARED = {"_name_or_path", "architectures", "transformers_version", "quantization_config"}


def rehearse(
    save: Callable[[Path], None],
    policy: TrainedModel,
    chat: TextFormat,
    groups: Sequence[CompletionGroup],
    out: Path,
) -> None:
    """Saves the model as it is, reads it back and removes it. TrimtabError where it can't be saved, or not read."""
    if isinstance(policy, RewardModel) and isinstance(chat, TurnFormat | PairFormat):
        policy.bind(chat)
    trial = out / TRIAL
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir(parents=True)
    try:
        with _keeping_special_tokens(policy, chat):
            try:
                save(trial)
            except (OSError, TrimtabError):
                raise
            except Exception as error:  # the libraries raise whatever they like
                raise TrimtabError(
                    f"model {policy.source}: it cannot be saved: {first_line(error)} Nothing was trained yet."
                ) from error
            read_back(trial, policy, chat, groups)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def read_back_once(
    save: Callable[[Path], None],
    policy: TrainedModel,
    chat: TextFormat,
    groups: Sequence[CompletionGroup],
    skip: int,
) -> Callable[[Path], None]:
    """The same `save`, which reads back what it wrote once: after `skip` folders that are known to be read."""
    few, saved = list(groups[:ROWS]), 0  # as they are before a method makes others of them

    def checked(folder: Path) -> None:
        nonlocal saved
        save(folder)
        if saved == skip:
            read_back(folder, policy, chat, few)
        saved += 1

    return checked


@contextmanager
def _keeping_special_tokens(policy: TrainedModel, chat: TextFormat) -> Iterator[None]:
    """Undoes what saving changes in memory: which tokens end and pad."""
    tokenizer, model = chat.tokenizer, policy.model
    names = (tokenizer.eos_token, tokenizer.pad_token)
    configs = [c for c in (model.config, getattr(model, "generation_config", None)) if c is not None]
    # Some families' configs know no such names (RWKV, CodeGen).
    ids = [{name: getattr(config, name, None) for name in ENDS} for config in configs]
    try:
        yield
    finally:
        tokenizer.eos_token, tokenizer.pad_token = names
        for config, before in zip(configs, ids, strict=True):
            for name, token in before.items():
                if hasattr(config, name):
                    setattr(config, name, token)


def read_back(folder: Path, policy: TrainedModel, chat: TextFormat, groups: Sequence[CompletionGroup]) -> None:
    """Raises TrimtabError where the folder, as transformers reads it, is not the model in memory."""
    states = random_states()
    try:
        _check_same_tokens(folder, chat, groups)
        scored = isinstance(policy, RewardModel)
        auto: AutoClass = AutoModelForSequenceClassification if scored else AutoModelForCausalLM
        _check_same_model(_read(auto, folder), policy, chat, _comparison_rows(groups))
        if (folder / ADAPTER).is_dir() and not is_quantized(policy.model):
            _check_same_adapter(folder / ADAPTER, policy, groups)
    finally:
        set_random_states(states)


def _mismatch(what: str) -> TrimtabError:
    return TrimtabError(
        f"the saved folder, read without trimtab, is another model: {what}. That is a fault of trimtab's or of "
        "transformers': please report it with the model's config.json and tokenizer_config.json."
    )


def _read(auto: AutoClass, folder: Path) -> PreTrainedModel:
    """The model as transformers reads it. TrimtabError where weights are missing, unexpected or of other shapes."""
    release_freed_memory()
    try:
        model, info = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # the libraries raise whatever they like
        raise _mismatch(f"it does not load ({first_line(error)})") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info.get(problem) or ())):
            raise _mismatch(f"{problem.replace('_', ' ')} such as {names[0]}")
    return model.eval()


def _comparison_rows(groups: Sequence[CompletionGroup]) -> list[list[int]]:
    """Short rows to compare on."""
    rows = ([*g.prompts[0], *(g.completions[0] if g.completions else ())][:TOKENS] for g in groups)
    return [row for row in rows if len(row) > 1][:ROWS]


def _as_groups(rows: Sequence[Sequence[int]]) -> list[CompletionGroup]:
    """The second half of each row is its completion."""
    return [CompletionGroup(tuple(row[: len(row) // 2]), (tuple(row[len(row) // 2 :]),)) for row in rows]


@torch.no_grad()
def _in_memory(policy: TrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """What the model in memory says of the rows: log-probabilities of their second halves, or scores."""
    groups = _as_groups(rows)
    if isinstance(policy, RewardModel):
        groups = [for_scoring(group) for group in groups]
    was_training = policy.training
    policy.eval()
    try:
        batch = pack(groups).to(policy.device)
        # A stranger computes in float32, and feeds ids alone. By the class's own forward pass: accelerate puts one
        # in bf16 in its place, which rounds by more than what is looked for.
        with torch.autocast(policy.device.type, enabled=False):
            if isinstance(policy, RewardModel):
                return RewardModel.forward(policy, batch).float().cpu().flatten()
            with policy.inputs.ids_alone():
                return Policy.forward(policy, batch).logps.float().cpu()
    finally:
        policy.train(was_training)


@torch.no_grad()
def _without_trimtab(model: PreTrainedModel, rows: Sequence[Sequence[int]], token_types: bool = False) -> Tensor:
    """The same by a model that transformers has read."""
    out = []
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    cacheless = "use_cache" in inspect.signature(plain.forward).parameters  # not every family's cache bears one row
    for row in rows:
        half, ids = len(row) // 2, torch.tensor([row])
        inputs: dict[str, Tensor | bool] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if cacheless:
            inputs["use_cache"] = False
        if token_types:
            inputs["token_type_ids"] = (torch.arange(len(row)) >= half).long()[None]
        logits = model(**inputs).logits[0].float()
        if logits.ndim == 1:
            out.append(logits)
        else:
            logps = logits[half - 1 : -1].log_softmax(-1)
            out.append(logps.gather(-1, ids[0, half:, None])[:, 0])
    return torch.cat(out)


def _check_close(expected: Tensor, read: Tensor, near: float, what: str) -> None:
    if not torch.allclose(expected, read, atol=near, rtol=1e-3, equal_nan=True):
        worst = float((expected - read).abs().nan_to_num(torch.inf).max())
        raise _mismatch(f"{what} differ by up to {worst:.3g}")


def _check_same_model(
    saved: PreTrainedModel, policy: TrainedModel, chat: TextFormat, rows: Sequence[Sequence[int]]
) -> None:
    config, expected = _as_json(saved.config), _as_json(policy.model.config)
    other = sorted(n for n in {*config, *expected} - NOT_COMPARED if config.get(n) != expected.get(n))
    note = f" (its config differs in {', '.join(other)})" if other else ""
    if rows:
        scored = isinstance(policy, RewardModel)
        token_types = isinstance(policy, RewardModel) and policy.token_types
        try:
            read = _without_trimtab(saved, rows, token_types)
        except Exception as error:  # the family's own code, with settings that it does not bear
            if is_out_of_memory(error):
                raise
            raise TrimtabError(
                f"model {policy.source}: transformers cannot run it: {reason_of(error).rstrip('.')}. Mend its "
                "config.json, or name another model."
            ) from error
        near = NEAR_IN_FOUR_BITS if is_quantized(policy.model) else NEAR
        _check_close(_in_memory(policy, rows), read, near, ("scores" if scored else "log-probabilities") + note)
    if other:
        warn(f"the saved folder's config differs in {', '.join(other)}.")
    entries, pad = (
        int(saved.get_input_embeddings().weight.shape[0]),
        getattr(saved.config.get_text_config(), "pad_token_id", None),
    )
    if pad is not None and pad >= entries:
        raise _mismatch(f"its pad token is {pad}, of {entries} embeddings")
    if isinstance(policy, RewardModel) or isinstance(chat, PairFormat):
        return
    stops = saved.generation_config.eos_token_id
    if chat.end_of_turn not in (stops if isinstance(stops, list) else [stops]):
        raise _mismatch(f"it stops at {stops} and not at the end of a turn, {chat.end_of_turn}")


def _as_json(config: PretrainedConfig) -> JsonObject:
    """A config as it reads in JSON."""
    plain: JsonObject = json.loads(json.dumps(config.to_dict(), default=str))
    return plain


def _check_same_tokens(folder: Path, chat: TextFormat, groups: Sequence[CompletionGroup]) -> None:
    expected = chat.tokenizer
    try:
        saved = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the libraries raise whatever they like
        raise _mismatch(f"its tokenizer does not load ({first_line(error)})") from error
    for name in ("eos_token_id", "pad_token_id", "bos_token_id", "chat_template"):
        if getattr(saved, name) != getattr(expected, name):
            raise _mismatch(
                f"its tokenizer's {name} is {getattr(saved, name)!r}, and not {getattr(expected, name)!r}"
            )
    texts = [*probes_of(expected), *(expected.decode(row) for row in _comparison_rows(groups))]
    text = first_difference(expected, saved, texts)
    if text is None:
        return
    kind = type(saved).__name__
    if first_difference(expected, PreTrainedTokenizerFast.from_pretrained(folder), texts) is not None:
        raise _mismatch(f"its tokens are others for {text[:24]!r}…, read as {kind}")
    warn(
        f"the saved tokenizer: transformers' AutoTokenizer reads it as {kind}, for the model's type, and makes "
        f"other tokens than {FILE} says and than were trained on, for {text[:24]!r}…. "
        "PreTrainedTokenizerFast reads it rightly.",
    )


def _check_same_adapter(folder: Path, policy: TrainedModel, groups: Sequence[CompletionGroup]) -> None:
    """An adapter on the base that its config names."""
    import peft

    try:
        saved = peft.AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except Exception as error:  # the library raises whatever it likes
        raise _mismatch(f"its adapter does not load ({first_line(error)})") from error
    rows = _comparison_rows(groups)
    if rows:
        _check_close(
            _in_memory(policy, rows), _without_trimtab(saved, rows), NEAR, "log-probabilities of the adapter"
        )
