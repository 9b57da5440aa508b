"""Folders that would run somebody else's code are refused, unless asked for by name.

Pickled weights run code when they are read (torch.load's weights_only is torch's protection; the user's word is
ours), and `auto_map` in a config names Python files that transformers would import. A hub name is not looked into:
there the same settings are passed on to transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from trimtab.data.settings import Settings
from trimtab.errors import TrimtabError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


class LoadingArguments(TypedDict):
    """What from_pretrained is called with. use_safetensors: True, not None, for safetensors alone: None falls back
    to pickles."""

    use_safetensors: bool | None
    trust_remote_code: bool


class TrustSettings(Settings):
    """What a model folder may do that could run code of its author's."""

    allow_pickle: bool = False
    """Whether weights may be read from pickles (.bin, .pt): reading one can run code."""
    trust_remote_code: bool = False
    """Whether Python files that come with a model or tokenizer may run."""

    @property
    def loading(self) -> LoadingArguments:
        """The arguments of from_pretrained that these settings stand for."""
        return {
            "use_safetensors": None if self.allow_pickle else True,
            "trust_remote_code": self.trust_remote_code,
        }


def refuse_pickles(source: str, trust: TrustSettings) -> None:
    """Raises TrimtabError for a folder whose only weights are pickles, unless the settings allow them."""
    folder = Path(source)
    if trust.allow_pickle or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    if pickles := sorted(file.name for kind in PICKLES for file in folder.glob(kind)):
        raise TrimtabError(
            f"model {source}: its weights are pickled ({pickles[0]}), and reading a pickle can run code. Convert "
            "them to safetensors (transformers: from_pretrained(folder), then save_pretrained(folder)), or, where "
            "you trust the author, set allow_pickle=true."
        )


def refuse_remote_code(source: str, trust: TrustSettings, what: str = "model") -> None:
    """Raises TrimtabError for a folder whose config names Python code of its own, unless the settings allow it.
    what: "model" or "tokenizer"."""
    file = Path(source) / ("tokenizer_config.json" if what == "tokenizer" else "config.json")
    if trust.trust_remote_code or not file.is_file():
        return
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # transformers says what is wrong with it
    if isinstance(config, dict) and config.get("auto_map"):
        raise TrimtabError(
            f"{what} {source}: {file.name} asks for Python code of its own (auto_map). Where transformers knows "
            f"the {what} itself, remove auto_map from {file.name}; where you have read the code and trust it, set "
            "trust_remote_code=true."
        )
