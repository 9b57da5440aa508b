"""Settings from YAML and `--set`: read, checked, and what is wrong with them said in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trimtab.data.settings import plain_types
from trimtab.data.splits import DataSettings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError

Parsed = TypeVar("Parsed", bound=BaseModel)
Hint = Callable[[str], str | None]
"""What to say of an unknown name at the top of the settings; None: nothing of its own."""


def apply_overrides(value: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`sft.learning_rate=1e-4`: the value is read as YAML."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise TrimtabError(f"--set {override!r}: expected key=value, such as sft.learning_rate=1e-4.")
        *path, last = key.split(".")
        place = value
        for part in path:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                raise TrimtabError(f"--set {override!r}: {part!r} is a value, and has no settings inside.")
        try:
            place[last] = read_yaml(text)
        except ValueError as error:
            raise TrimtabError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    return value


def parse(model: type[Parsed], value: dict[str, Any], where: str, hint: Hint = lambda name: None) -> Parsed:
    """The settings that a value holds. TrimtabError, with a line for each thing that is wrong.

    where: what each line begins with.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [_line(model, item, where, hint) for item in _said_once(model, error)]
        raise TrimtabError("\n".join(lines)) from None


def _said_once(model: type[BaseModel], error: ValidationError) -> list[dict[str, Any]]:
    """Of a setting that may be of several types pydantic names every type, each with an error: what is kept is the
    one that went furthest, and the types are no part of a name."""
    furthest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item in map(_about_the_kind, map(dict, error.errors())):
        loc = _place(model, item["loc"])[0]
        types = [i for i, part in enumerate(loc) if _names_a_type(part)]
        stem = loc[: types[0]] if types else loc
        if stem not in furthest or len(loc) > len(furthest[stem]["loc"]):
            furthest[stem] = item | {"loc": loc}
    plain = [tuple(part for part in item["loc"] if not _names_a_type(part)) for item in furthest.values()]
    return [item | {"loc": loc} for item, loc in zip(furthest.values(), plain, strict=True)]


def _about_the_kind(item: dict[str, Any]) -> dict[str, Any]:
    """Where it is the kind of a setting that is wrong: an error of `kind` itself, as of any other choice."""
    if item["type"] not in ("union_tag_invalid", "union_tag_not_found"):
        return item
    kind = item["loc"][-1:] != ("kind",) and isinstance(item["input"], dict)
    if not kind:
        return item | {"msg": "Input should be settings with a kind, such as {kind: trained}"}
    if "kind" not in item["input"]:
        return item | {"loc": (*item["loc"], "kind"), "msg": "Field required", "input": item["input"]}
    *others, last = item.get("ctx", {}).get("expected_tags", "").split(", ")
    expected = f"Input should be {', '.join(others)} or {last}"
    return item | {"loc": (*item["loc"], "kind"), "msg": expected, "input": item["input"]["kind"]}


def _place(model: type[BaseModel], loc: Sequence[Any]) -> tuple[tuple[Any, ...], list[type[BaseModel]]]:
    """Where an error is, without the kinds that pydantic puts between names, and the settings that may stand
    there."""
    place: list[Any] = []
    models = [model]
    for part in loc:
        tagged = [one for one in models if len(models) > 1 and part in kinds_of(one)]
        if tagged:
            models = tagged
            continue
        place.append(part)
        if not isinstance(part, int):
            fields = [one.model_fields[part] for one in models if part in one.model_fields]
            models = list(dict.fromkeys(one for field in fields for one in models_in(field.annotation)))
    return tuple(place), models


def kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of `kind` that settings of this class have."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings that a field may hold, itself or as items."""
    return [one for one in plain_types(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]


def shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _names_a_type(part: Any) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def _line(model: type[BaseModel], item: dict[str, Any], where: str, hint: Hint) -> str:
    *path, last = item["loc"] or ("",)
    name = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        known = {known for one in _place(model, path)[1] for known in one.model_fields}
        said = None if path else _of_the_data(str(last)) or hint(str(last))
        return f"{where}: unknown setting {name!r}.{said or nearest(str(last), known)}"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    # An address may hold a password.
    plain = isinstance(given, (str, float, bool, type(None))) and "://" not in str(given)
    plain = plain or (isinstance(given, int) and abs(given) < 10**40)
    shown = f" (given: {shortened(repr(given))})" if plain else ""
    return f"{where}: {name}: {message}{shown}" if name else f"{where}: {message}"


def _of_the_data(name: str) -> str | None:
    return f" Did you mean 'data.{name}'?" if name in DataSettings.model_fields else None


def nearest(name: str, known: Collection[str]) -> str:
    """What to say behind an unknown name: the known one that is nearest, or all of them."""
    # Stricter where the name is short: 'lr' is no misspelt 'lora'.
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if len(name) > 3 else 0.8)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(known))}."
