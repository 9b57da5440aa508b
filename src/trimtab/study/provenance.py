"""What a report says of where it comes from: the settings, and hashes of data and models. The command is in
command_line.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from trimtab.data.hashing import hash_source
from trimtab.data.splits import DataSettings
from trimtab.evaluation.results import Setting, Source
from trimtab.methods.table import METHODS
from trimtab.models.gguf.place import origin_of
from trimtab.models.lora import hash_model
from trimtab.recipe import Recipe
from trimtab.study.command_line import HIDDEN as HIDDEN  # where scripts look for them
from trimtab.study.command_line import command_line as command_line
from trimtab.study.command_line import today as today
from trimtab.study.command_line import without_secrets
from trimtab.study.stages import stages_of


def set_and_default(settings: Mapping[str, BaseModel]) -> tuple[list[Setting], dict[str, str]]:
    """The settings that differ from their defaults, and the values of all others by name.

    settings: by the prefix of their names, which may be empty.
    """
    changed: list[Setting] = []
    defaults: dict[str, str] = {}
    for prefix, model in settings.items():
        for name, value, default in _flatten(model, f"{prefix}." if prefix else ""):
            shown = _as_text(value)
            if default is not ... and value == default:
                defaults[name] = shown
            else:
                changed.append(
                    Setting(name=name, value=shown, default=None if default is ... else _as_text(default))
                )
    return changed, defaults


def _flatten(settings: BaseModel, prefix: str) -> Iterator[tuple[str, object, object]]:
    """(name, value, default) of every setting, those inside others by dotted names; ... where there is none."""
    for name, field in type(settings).model_fields.items():
        if field.exclude:
            continue
        value = getattr(settings, name)
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            inside = list(_flatten(value, f"{prefix}{name}."))
            if default is None and all(value == usual for _, value, usual in inside):
                yield f"{prefix}{name}", {}, None  # that it is there says something
            yield from inside
        elif isinstance(value, tuple | list) and value and all(isinstance(item, BaseModel) for item in value):
            for i, item in enumerate(value):
                yield from _flatten(item, f"{prefix}{name}.{i}.")
        else:
            yield f"{prefix}{name}", value, default


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return without_secrets(json.dumps(value, ensure_ascii=False, default=str))


def study_settings(recipe: Recipe) -> tuple[list[Setting], dict[str, str]]:
    """The settings of a recipe as set_and_default gives them, without those of stages that the study does not run.

    A stage that follows the recipe's seed counts as having the default.
    """
    used = _stages(recipe)
    names = list(METHODS)
    changed, defaults = set_and_default({"": recipe})
    follows = {f"{name}.seed" for name in names if (stage := getattr(recipe, name)) and stage.seed == recipe.seed}

    def runs(name: str) -> bool:
        stage = name.split(".")[0]
        return stage not in names or stage in used

    read = [setting for setting in changed if runs(setting.name)]
    kept = [setting for setting in read if setting.name not in follows]
    following = {setting.name: setting.value for setting in read if setting.name in follows}
    return kept, {name: value for name, value in (defaults | following).items() if runs(name)}


def _stages(recipe: Recipe) -> set[str]:
    """The stages whose settings the study reads: those that it runs, and those that one of them inherits."""
    used = {stage.method for stage in stages_of(recipe)}
    return used | {str(METHODS[name].inherits) for name in used if getattr(recipe, name) is None}


def data_sources(data: DataSettings, name: str | None = None, prompts: DataSettings | None = None) -> list[Source]:
    """The files that the rows come from, with their hashes. name: what the rows are called, instead of by file.
    prompts: rows of their own of methods that a reward drives."""
    roles = ("train", "validation", "test")
    sources = [(role, getattr(data, role)) for role in roles]
    sources += [(f"prompts: {role}", getattr(prompts, role)) for role in roles if prompts is not None]
    return [
        Source(role=role, name=name or without_secrets(source), hash=hash_source(source, nested=True))
        for role, source in sources
        if source is not None
    ]


def model_sources(models: Mapping[str, tuple[str, str] | None]) -> list[Source]:
    """The models with the hashes of their weights. models: by role, a model's name and where it lies."""
    named = [(role, *name_and_place) for role, name_and_place in models.items() if name_and_place]
    return [
        Source(role=role, name=f"{without_secrets(name)}{_quantised(place)}", hash=hash_model(place))
        for role, name, place in named
    ]


def _quantised(place: str) -> str:
    """Of a model that was read from a GGUF file, how its weights were kept there."""
    origin = origin_of(place)
    return "" if origin is None else f" (GGUF, {origin.split(',')[0]}, read to float32)"
