"""A folder that alpaca_eval wrote: annotations.json, in it or one level below, in a folder of the annotator's name.

Its rows, as those of model_outputs.json, have columns that tables.py knows.
"""

from __future__ import annotations

from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.readers import tables
from trimtab.readers.columns import Reading
from trimtab.readers.rows import MethodRows

NAME = "annotations.json"


def suits(path: Path) -> bool:
    """Whether annotations lie in it."""
    return path.is_dir() and bool(_files(path))


def _files(path: Path) -> list[Path]:
    return [path / NAME] if (path / NAME).is_file() else sorted(path.glob(f"*/{NAME}"))


def read(path: Path, asked: Reading) -> list[MethodRows]:
    """The model that was judged. TrimtabError where several annotators judged it: each is a comparison of its
    own."""
    files = _files(path)
    if len(files) > 1:
        raise TrimtabError(f"{path}: judged by {len(files)} annotators. Name one: {files[0].parent}.")
    return tables.read(files[0], asked)
