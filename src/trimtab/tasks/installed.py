"""Whether standard tasks can be asked at all: told before anything is loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.tasks.settings import TaskSettings


def check_installed(asked: TaskSettings | None) -> None:
    """TrimtabError where tasks are asked and lm-eval, or the folder of task files, is missing."""
    if asked is None:
        return
    version()
    if asked.include_path is not None and not Path(asked.include_path).expanduser().is_dir():
        raise TrimtabError(f"tasks.include_path {asked.include_path}: no such folder.")


def version() -> str:
    """lm-eval's. TrimtabError where it is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise TrimtabError("tasks: they need lm-eval, which is not installed: pip install 'trimtab[lm-eval]'.")
    return importlib.metadata.version("lm_eval")
