"""A recipe's file: found, and read without the code that checks it, so that what is wrong is told at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from trimtab.data.parsing import apply_overrides
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject

SHIPPED = Path(__file__).parent / "recipes"


def recipe_file(path: Path) -> Path:
    """A file, or a recipe that comes with the package, by its name alone: quickstart."""
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    name = str(path).removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    beside = path.with_name(f"{path.name}.yaml") if path.name else path
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f" Did you mean {beside}?" if beside.is_file() else f" Did you mean {near[0]!r}?" if near else ""
    raise TrimtabError(
        f"recipe {path}: no such file.{hint} These come with trimtab, by their names alone: {', '.join(shipped)}; "
        "`trimtab init` writes one for your model and data."
    )


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Path, JsonObject]:
    """The file, and what is written in it, with `--set` upon it. TrimtabError where there is none, or it holds no
    settings."""
    path = recipe_file(path.expanduser())
    try:
        value = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrimtabError(f"recipe {path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise TrimtabError(f"recipe {path}: expected settings with names, found {type(value).__name__}.")
    return path, apply_overrides(value, overrides)
