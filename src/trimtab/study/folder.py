"""A study's folder: which recipe it is for, and that it is taken for no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from trimtab.errors import TrimtabError
from trimtab.files import clear_leftovers, difference, make_folder, write_json, write_text
from trimtab.json_types import JsonObject, JsonValue
from trimtab.recipe import Recipe
from trimtab.study.collect import environment
from trimtab.training.operational import without_operational


def open_study_folder(recipe: Recipe, out: Path, seeds: Sequence[int] = ()) -> None:
    """Takes the folder for this recipe, or refuses another study's. Seeds are no part of what a study is: each
    has a folder of its own, and environment.json says which the last command was for."""
    file, text = out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)
    if file.is_file() and (out / "environment.json").is_file():
        recorded = without_operational(_with_defaults(_kept_recipe(file)))
        current = without_operational(yaml.safe_load(text))
        differ = any(current[key] != recorded.get(key) for key in current)
        began = any(p.name in ("metrics.jsonl", "done.json") for p in out.glob("seed-*/*/*/*"))
        if differ and not began:
            # It never began: another study may have the folder. The sandbox's rows were made for the other one.
            for split in ("train", "validation", "test") if recorded.get("sandbox") else ():
                (out / "data" / f"{split}.jsonl").unlink(missing_ok=True)
        elif differ:
            raise TrimtabError(
                f"{out}: holds another study ({difference(recorded, current)}). Choose another --out, or remove "
                "this folder."
            )
    elif out.exists() and any(p.name[0] != "." and p.name != "environment.json" for p in out.iterdir()):
        raise TrimtabError(f"{out}: is not empty, and not a study of trimtab's. Choose another --out.")
    make_folder(out)
    clear_leftovers(out)
    write_json(out / "environment.json", environment(recipe.seed, seeds))
    write_text(file, text)


def _kept_recipe(file: Path) -> JsonObject:
    try:
        kept = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        kept, reason = None, " ".join(str(error).split())
    else:
        reason = "it holds no settings"
    if not isinstance(kept, dict):
        raise TrimtabError(f"{file}: is damaged: {reason}. Put it back, or remove {file.parent}.")
    return kept


def _with_defaults(value: JsonValue) -> JsonValue:
    """A recipe as it was written down, with the settings that an older version did not have yet."""
    try:
        return Recipe.model_validate(value).model_dump()
    except ValidationError:
        return value
