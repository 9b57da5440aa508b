"""A folder that holds an adapter and no model, as peft saves one: its config, its base, where its tokenizer is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import TrimtabError, reason_of
from trimtab.json_types import JsonObject

CONFIG = "adapter_config.json"
DEEPEST = 8
"""Adapters on adapters that are followed: more are a circle."""
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip


def expand_home(source: str) -> str:
    """A path with a leading ~ written out as the user's folder; any other source, such as a hub name, as it is."""
    return os.path.expanduser(source) if source.startswith("~") else source


def model_weights(folder: Path) -> list[Path]:
    """The files of a folder that hold a model's weights; an adapter's, an optimizer's and such are left out."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    of_others = ("adapter_", "training_args", "optimizer", "scheduler")
    return sorted(file for file in files if not file.name.startswith(of_others))


def is_adapter(source: str) -> bool:
    """Whether a folder holds an adapter, and no model. A model's config beside it, which some trainers write, makes
    it no model: only weights do."""
    folder = Path(source).expanduser()
    if not (folder / CONFIG).is_file():
        return False
    return not (folder / "config.json").is_file() or not model_weights(folder)


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter's config says. base: the model that it names, or the folder of that name in the adapter's.
    kind: LORA, …; task: CAUSAL_LM, …, or none. value: the whole config."""

    base: str
    kind: str
    task: str | None
    value: JsonObject


def adapter_config(source: str) -> AdapterConfig:
    """The config in an adapter's folder; TrimtabError where it cannot be read, or names no base."""
    folder = Path(source).expanduser()
    try:
        value = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}, and no object of settings")
    except (OSError, ValueError, RecursionError) as error:
        raise TrimtabError(f"adapter {source}: its {CONFIG} cannot be read: {reason_of(error)}") from None
    base, kind, task = (value.get(key) for key in ("base_model_name_or_path", "peft_type", "task_type"))
    if not base or not isinstance(base, str):
        raise TrimtabError(f"adapter {source}: its config names no base model (base_model_name_or_path).")
    base = expand_home(base)
    beside = folder / base
    if not os.path.exists(base) and not os.path.isabs(base) and (beside / "config.json").is_file():
        base = str(beside)
    return AdapterConfig(base, str(kind or ""), str(task) if task else None, value)


def base_of(source: str) -> str:
    """The model that an adapter's folder was trained on, as its config names it; perhaps an adapter itself."""
    return adapter_config(source).base


def bases_of(source: str) -> list[str]:
    """The models below an adapter, the nearest first; the last is no adapter. Empty for a model."""
    bases: list[str] = []
    while is_adapter(source):
        source = base_of(source)
        bases.append(source)
        if len(bases) > DEEPEST:
            raise TrimtabError(
                f"adapter {bases[0]}: its base is an adapter, and so on for {DEEPEST} times: a circle. Put the "
                f"model that it was trained on into base_model_name_or_path of its {CONFIG}."
            )
    return bases


def tokenizer_source(source: str) -> str:
    """Where a model's tokenizer is: in its folder, or, of an adapter that brings none, in its base's."""
    for place in [source, *bases_of(source)]:
        folder = Path(place).expanduser()
        if not is_adapter(place) or any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return place
    return source
