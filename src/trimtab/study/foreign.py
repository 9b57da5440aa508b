"""Whose a folder is, so that nobody's results are replaced by another command's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trimtab.errors import TrimtabError

TRAINED = {"recipe.yaml": "a study", "stage.json": "a trained model"}
GENERATED = {"generations.jsonl": "trimtab generate"}
EVALUATED = {"evaluation": "trimtab evaluate"}
"""By what lies in a folder, what it is the folder of."""


def refuse_others(out: Path, foreign: Mapping[str, str]) -> None:
    """Raises TrimtabError where `out` is the folder of something else, whose results this would replace.

    foreign: by a file or folder in it, what it is the folder of.
    """
    for name, what in foreign.items():
        if (out / name).exists():
            raise TrimtabError(f"{out}: is the folder of {what}. Choose another --out.")
