"""Where the sandbox's models are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def starter(name: str) -> Path:
    """The folder of a starter that ships with the package: "base" or "instruct"."""
    return Path(str(files("trimtab.sandbox") / "starters" / name))
