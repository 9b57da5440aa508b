"""A JSON schema of recipes, by which editors complete and check them: `trimtab settings --schema`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from trimtab.catalogue import compared_methods
from trimtab.data.parsing import models_in
from trimtab.json_types import JsonObject
from trimtab.recipe import Recipe
from trimtab.settings_list import sentence


def recipe_schema() -> JsonObject:
    """What pydantic makes of the recipe's classes, with each setting's sentence."""
    schema: JsonObject = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Recipe.model_json_schema() | {"title": "A recipe of trimtab"}
    for model in _models(Recipe, []):
        definition = schema if model is Recipe else schema["$defs"].get(model.__name__, {})
        for name, place in definition.get("properties", {}).items():
            place.pop("title", None)
            if isinstance(place.get("default"), dict):  # that of a group: its settings say their own
                del place["default"]
            if text := sentence(model, name):
                place["description"] = text
    properties = schema["properties"]
    properties["methods"]["items"] = {"enum": compared_methods()}
    properties["judge"]["anyOf"].append({"type": "string"})  # a short name
    for settings in schema["$defs"].values():
        if "length_encoding" in settings.get("properties", {}):
            settings["properties"]["length_encoding"]["anyOf"].append({"type": "boolean"})
    return schema


def _models(model: type[BaseModel], seen: list[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """The model, and those inside it, each once."""
    if model in seen:
        return
    seen.append(model)
    yield model
    for field in model.model_fields.values():
        for inside in models_in(field.annotation):
            yield from _models(inside, seen)
