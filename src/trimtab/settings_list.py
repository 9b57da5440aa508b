"""`trimtab settings`: every setting with its type, its default and its sentence.

A sentence is the text under a setting in its class, read from the source; docs/settings.md is made of the same.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trimtab.data.parsing import kinds_of, models_in, nearest
from trimtab.errors import TrimtabError
from trimtab.evaluation.markdown import escape_markdown
from trimtab.recipe import STAGES, Recipe, StageDefaults
from trimtab.recipe_spaces import SECTION, TuneSettings
from trimtab.training.schedule import TrainingSettings

PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}
INTRODUCTION = """# Settings

Made by `trimtab settings --markdown > docs/settings.md` from the sentences under the settings in the source;
`trimtab settings`, `trimtab settings dpo` and `trimtab settings dpo.lora` print the same.

A recipe holds them as YAML; `--set dpo.beta=0.05` sets one on the command line. A command that trains one method
(`trimtab dpo`) takes the method's settings without its name (`--set beta=0.05`), and the data's as
`--set data.max_length=512`.

**Said once.** What stands under `defaults` holds for every stage that the study trains and that has such a setting:
`defaults: {batch_size: 64, lora: {rank: 16}}`, or `--set defaults.batch_size=4`. `sft_length` has all that `sft`
sets, but for `length_encoding`. A stage's own settings win over what it inherits, and this over the defaults;
groups such as `lora` and `sampling` are merged by their keys, any other value is taken whole.

**In an editor.** `trimtab settings --schema > recipe.schema.json` writes a JSON schema of recipes. VS Code's YAML
extension (redhat.vscode-yaml) completes and checks a recipe whose first line is
`# yaml-language-server: $schema=./recipe.schema.json`; for all recipes of a folder, `.vscode/settings.json` says:

```json
{"yaml.schemas": {"./recipe.schema.json": "recipes/*.yaml"}}
```
"""


@dataclass(frozen=True)
class SettingsTable:
    """The settings at one place. Named as print_table wants it."""

    caption: str
    rows: list[list[str]]
    notes: list[str]
    header: tuple[str, ...] = ("setting", "type", "default", "")


def settings_table(key: str = "") -> SettingsTable:
    """The settings at a place of a recipe: "" for the recipe, "dpo", "dpo.lora", "judge.nemotron", "dpo.beta".

    TrimtabError, with the nearest name, where there is no such place.
    """
    key = key.replace("-", "_")
    models: list[type[BaseModel]] = [Recipe]
    first, _, rest = key.partition(".")
    if first == SECTION:
        models, inner = [TuneSettings], rest
    else:
        inner = key
    for part in filter(None, inner.split(".")):
        fields = _kinds(models) if len(models) > 1 else models[0].model_fields if models else {}
        if part not in fields:
            raise TrimtabError(
                f"settings {key}: no setting {part!r} there.{nearest(part, fields) if fields else ''}"
            )
        if len(models) > 1:
            models = [_kinds(models)[part]]
        elif inside := models_in(models[0].model_fields[part].annotation):
            models = inside
        else:
            of, models = models[0], []
    if not models:
        name = key.split(".")[-1]
        return SettingsTable(key, [_row(of, name, of.model_fields[name])], [])
    if len(models) > 1:
        kinds = _kinds(models)
        rows = [[name, _flat(kind.__doc__ or "")] for name, kind in kinds.items()]
        return SettingsTable(
            key, rows, [f"What a kind takes: trimtab settings {key}.{next(iter(kinds))}"], ("kind", "")
        )
    return SettingsTable(_caption(models[0], key), settings_rows(models[0]), _further(models[0], key))


def _kinds(models: list[type[BaseModel]]) -> dict[str, type[BaseModel]]:
    return {kind: model for model in models for kind in kinds_of(model)}


def _caption(model: type[BaseModel], key: str) -> str:
    text = _flat(model.__doc__ or "") if "__doc__" in vars(model) else ""
    return f"Settings of {key}. {text}".rstrip() if key else text


def _further(model: type[BaseModel], key: str) -> list[str]:
    """Where groups inside have settings of their own."""
    groups = [name for name, field in model.model_fields.items() if models_in(field.annotation)]
    places = [f"{key}.{name}" if key else name for name in groups]
    return [f"With settings of their own: {', '.join(places)} (trimtab settings {places[0]})"] if places else []


def settings_rows(model: type[BaseModel]) -> list[list[str]]:
    """A row for each setting: its name, what it may be, its default as YAML (or "required"), its sentence."""
    return [_row(model, name, field) for name, field in model.model_fields.items()]


def _row(model: type[BaseModel], name: str, field: FieldInfo) -> list[str]:
    return [name, describe_type(field), describe_default(field), sentence(model, name)]


# ---- sentences


def sentence(model: type[BaseModel], name: str) -> str:
    """What a setting is: the text under it in its class, or in the class that it comes from, and its description.

    "" where there is neither. Nothing is called null, as a recipe has it.
    """
    places = STAGES.values() if model is StageDefaults else [model]
    for settings in (
        parent for place in places for parent in place.__mro__ if parent.__module__.startswith("trimtab")
    ):
        if text := _sentences(settings.__module__).get(settings.__name__, {}).get(name):
            break
    else:
        text = ""
    more = model.model_fields[name].description or ""  # what is worked out, such as a table's names
    return _flat(re.sub(r"\bNone\b", "null", f"{text} {more}"))


@cache
def _sentences(module: str) -> dict[str, dict[str, str]]:
    """Class → setting → the string under it, of a module's source."""
    sentences_by_class: dict[str, dict[str, str]] = {}
    for part in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(part, ast.ClassDef):
            below = zip(part.body, part.body[1:], strict=False)
            sentences_by_class[part.name] = {
                line.target.id: _flat(next_line.value.value)
                for line, next_line in below
                if isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(next_line, ast.Expr)
                and isinstance(next_line.value, ast.Constant)
                and isinstance(next_line.value.value, str)
            }
    return sentences_by_class


def _flat(text: str) -> str:
    return " ".join(text.split())


# ---- types and defaults


def describe_type(field: FieldInfo) -> str:
    """What a setting may be: "number > 0", "linear | cosine | constant", "list of texts"."""
    words = _describe(field.annotation)
    return (
        " ".join([words, *_bounds(field.metadata)])
        if words.split(" | ")[0] in ("number", "whole number")
        else words
    )


def _describe(annotation: object) -> str:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return " ".join([_describe(inner), *(_bounds(metadata) if inner in (int, float) else [])])
    if annotation in PLAIN:
        return PLAIN[annotation]
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is dict:
        return f"names with {_describe(get_args(annotation)[1])}"
    if get_origin(annotation) in (list, tuple):
        items = dict.fromkeys(_describe(option) for option in get_args(annotation) if option is not Ellipsis)
        return f"list of {' | '.join(items)}"
    if models_in(annotation):
        return "settings"
    options = dict.fromkeys(_describe(option) for option in get_args(annotation) if option is not type(None))
    return " | ".join(options) or str(getattr(annotation, "__name__", annotation))


def _bounds(metadata: Sequence[object]) -> list[str]:
    """The bounds of a number; those that are there for slips of the finger only are left out."""
    signs = {annotated_types.Gt: ">", annotated_types.Ge: "≥", annotated_types.Lt: "<", annotated_types.Le: "≤"}
    limits: list[str] = []
    for bound in metadata:
        for kind, sign in signs.items():
            if isinstance(bound, kind):
                value = getattr(bound, kind.__name__.lower())
                if abs(value) <= 1:
                    limits.append(f"{sign} {value:g}")
    return [", ".join(limits)] if limits else []


def describe_default(field: FieldInfo) -> str:
    """As YAML has it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "{}"
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)


# ---- all of them


def settings_markdown() -> str:
    """docs/settings.md: a table for each group of settings, each group once."""
    return "\n".join([INTRODUCTION, *_sections()]) + "\n"


def _markdown_table(rows: list[list[str]]) -> Iterator[str]:
    yield "| setting | type | default | |\n|---|---|---|---|"
    for name, *cells in rows:
        yield f"| `{name}` | {' | '.join(map(escape_markdown, cells))} |"


def _sections() -> Iterator[str]:
    common = settings_rows(TrainingSettings)
    seen: dict[type[BaseModel], str] = {StageDefaults: "defaults"}
    waiting: list[tuple[str, type[BaseModel]]] = [("", Recipe), (SECTION, TuneSettings)]
    while waiting:
        key, model = waiting.pop(0)
        inside: list[tuple[str, type[BaseModel]]] = []
        for name, field in model.model_fields.items():
            models = models_in(field.annotation)
            place = f"{key}.{name}" if key else name
            inside += [(f"{place}.{kinds_of(model)[0]}" if len(models) > 1 else place, model) for model in models]
        new = [(place, model) for place, model in inside if model not in seen]
        seen |= {model: place for place, model in reversed(new)}
        waiting = [pair for pair in new if seen[pair[1]] == pair[0]] + waiting
        yield f"## {f'`{key}`' if key else 'A recipe'}\n"
        if text := _flat(model.__doc__ or "") if "__doc__" in vars(model) else "":
            yield escape_markdown(text) + "\n"
        rows = settings_rows(model)
        if issubclass(model, TrainingSettings):
            rows = [row for row in rows if row not in common]
            yield "Besides what every method's training takes:\n"
        yield from _markdown_table(rows)
        same = [f"`{place}` as `{seen[model]}`" for place, model in inside if seen[model] != place and "." in place]
        if same:
            yield f"\n{', '.join(same)}."
        yield ""
        if model is Recipe:
            yield "## What every method's training takes\n"
            yield from _markdown_table(common)
            yield ""
