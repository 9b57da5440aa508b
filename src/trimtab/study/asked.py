"""What a command is asked for, checked before what it needs is loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.recipe_files import read_recipe

if TYPE_CHECKING:
    from trimtab.recipe import Recipe


def recipe_asked(recipe: Path, limit: int | None, overrides: Sequence[str]) -> Recipe:
    """The checked recipe of `trimtab study` and `plan`. TrimtabError where its file or something in it is wrong."""
    path, value = read_recipe(recipe, [*overrides, *([f"limit={limit}"] if limit else [])])
    from trimtab.recipe import check_recipe  # with all methods, and so with PyTorch

    return check_recipe(path, value)
