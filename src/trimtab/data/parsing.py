"""Settings from YAML and `--set`: read, checked, and what is wrong with them said in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trimtab.data.settings import plain_types
from trimtab.data.splits import DataSettings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject

Parsed = TypeVar("Parsed", bound=BaseModel)
Location = tuple[int | str, ...]
"""Where a setting is: the names and places that lead to it."""
Hint = Callable[[str], str | None]
"""What to say of an unknown name at the top of the settings; None: nothing of its own."""


@dataclass(frozen=True)
class _Problem:
    """One of pydantic's errors: its type, where it is, its message, the value, and the kinds there are."""

    type: str
    location: Location
    message: str
    value: object
    expected_tags: str


def apply_overrides(value: JsonObject, overrides: Sequence[str]) -> JsonObject:
    """Settings with those of `--set` put in. `sft.learning_rate=1e-4`: the value is read as YAML."""
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


def parse(model: type[Parsed], value: JsonObject, where: str, hint: Hint = lambda name: None) -> Parsed:
    """The settings that a value holds. TrimtabError, with a line for each thing that is wrong.

    where: what each line begins with.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [_describe(model, problem, where, hint) for problem in _distinct_problems(model, error)]
        raise TrimtabError("\n".join(lines)) from None


def _distinct_problems(model: type[BaseModel], error: ValidationError) -> list[_Problem]:
    """Of a setting that may be of several types pydantic names every type, each with an error: what is kept is the
    one that went furthest, and the types are no part of a name."""
    furthest: dict[Location, _Problem] = {}
    for item in error.errors():
        tags = str(item.get("ctx", {}).get("expected_tags", ""))
        problem = _of_the_kind(_Problem(item["type"], item["loc"], item["msg"], item["input"], tags))
        location = _resolve(model, problem.location)[0]
        types = [i for i, part in enumerate(location) if _names_a_type(part)]
        stem = location[: types[0]] if types else location
        if stem not in furthest or len(location) > len(furthest[stem].location):
            furthest[stem] = replace(problem, location=location)
    return [
        replace(problem, location=tuple(part for part in problem.location if not _names_a_type(part)))
        for problem in furthest.values()
    ]


def _of_the_kind(problem: _Problem) -> _Problem:
    """Where it is the kind of a setting that is wrong: a problem of `kind` itself, as of any other choice."""
    if problem.type not in ("union_tag_invalid", "union_tag_not_found"):
        return problem
    if problem.location[-1:] == ("kind",) or not isinstance(problem.value, dict):
        return replace(problem, message="Input should be settings with a kind, such as {kind: trained}")
    location = (*problem.location, "kind")
    if "kind" not in problem.value:
        return replace(problem, location=location, message="Field required")
    *others, last = problem.expected_tags.split(", ")
    expected = f"Input should be {', '.join(others)} or {last}"
    return replace(problem, location=location, message=expected, value=problem.value["kind"])


def _resolve(model: type[BaseModel], location: Sequence[int | str]) -> tuple[Location, list[type[BaseModel]]]:
    """Where an error is, without the kinds that pydantic puts between names, and the settings that may stand
    there."""
    resolved: list[int | str] = []
    models = [model]
    for part in location:
        tagged = [candidate for candidate in models if len(models) > 1 and part in kinds_of(candidate)]
        if tagged:
            models = tagged
            continue
        resolved.append(part)
        if not isinstance(part, int):
            fields = [candidate.model_fields[part] for candidate in models if part in candidate.model_fields]
            models = list(dict.fromkeys(inner for field in fields for inner in models_in(field.annotation)))
    return tuple(resolved), models


def kinds_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of `kind` that settings of this class have."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The settings that a field may hold, itself or as items."""
    return [inner for inner in plain_types(annotation) if isinstance(inner, type) and issubclass(inner, BaseModel)]


def shortened(text: str, limit: int = 80) -> str:
    """The text, or its first `limit` characters with an ellipsis where it has more."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def _names_a_type(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def _describe(model: type[BaseModel], problem: _Problem, where: str, hint: Hint) -> str:
    *path, last = problem.location or ("",)
    name = ".".join(map(str, problem.location))
    if problem.type == "extra_forbidden":
        allowed = {field for candidate in _resolve(model, path)[1] for field in candidate.model_fields}
        advice = None if path else _suggest_data_setting(str(last)) or hint(str(last))
        return f"{where}: unknown setting {name!r}.{advice or nearest(str(last), allowed)}"
    message, value = problem.message.removeprefix("Value error, "), problem.value
    # An address may hold a password.
    plain = isinstance(value, (str, float, bool, type(None))) and "://" not in str(value)
    plain = plain or (isinstance(value, int) and abs(value) < 10**40)
    shown = f" (given: {shortened(repr(value))})" if plain else ""
    return f"{where}: {name}: {message}{shown}" if name else f"{where}: {message}"


def _suggest_data_setting(name: str) -> str | None:
    return f" Did you mean 'data.{name}'?" if name in DataSettings.model_fields else None


def nearest(name: str, names: Collection[str]) -> str:
    """What to say behind an unknown name: the nearest of the names that there are, or all of them."""
    # Stricter where the name is short: 'lr' is no misspelt 'lora'.
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6 if len(name) > 3 else 0.8)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(names))}."
