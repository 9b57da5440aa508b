"""What every model of settings has in common: nothing unknown, nothing that is no number, nothing absurd.

The bounds are far beyond any use. They are there for a slip of the finger, which would otherwise end in an
allocation that fails hours later, or in a number that overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Seed = Annotated[int, Field(ge=0, lt=2**64)]
"""torch's range."""
ROWS = 10**12
TOKENS = 10**7
"""Of one sequence."""
BUDGET = 10**9
"""Tokens of a pass."""
IN_MEMORY = 10**6
"""Of what is in memory together: the rows of a batch, the samples of a prompt."""
STEPS = 10**9
LEARNING_RATE = 100.0
WEIGHT = 1e6
"""Of one term beside another."""
SECONDS = 1e7
"""Four months."""


Item = TypeVar("Item")
NAMES_A_MODEL = "names a model"
ModelSource = Annotated[str | None, NAMES_A_MODEL]
"""A setting that names a model: a folder, a hub name, or a starter of the sandbox such as sandbox:base; or none."""


class Settings(BaseModel):
    """Finite numbers only; a number is no boolean, and a boolean no number; texts are not empty.

    YAML reads 1e-5 and 1e3 as text: numbers may be given so.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_every_value(cls, value: object, info: ValidationInfo) -> object:
        types = set(plain_types(cls.model_fields[info.field_name or ""].annotation))
        return _coerced(value, types)


def plain_types(annotation: object) -> Iterator[object]:
    """The plain types in an annotation: float and str of `str | dict[str, float]`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for argument in inner:
        yield from plain_types(argument)


def _coerced(value: object, types: set[object]) -> object:
    """A setting's value, numbers that are written as text read. ValueError where it is of none of the types."""
    numeric = bool({int, float} & types)
    if isinstance(value, bool) and numeric and bool not in types:
        raise ValueError("expected a number, not true or false (YAML reads yes, no, on and off so too)")
    if isinstance(value, int | float) and not isinstance(value, bool) and bool in types and not numeric:
        raise ValueError("expected true or false, not a number")
    if isinstance(value, str):
        return _coerced_text(value, types)
    if isinstance(value, list | tuple):
        return [_coerced(item, types) for item in value]
    if isinstance(value, dict) and not any(isinstance(t, type) and issubclass(t, BaseModel) for t in types):
        return {key: _coerced(item, types) for key, item in value.items()}
    return value


def _coerced_text(value: str, types: set[object]) -> str | int:
    if str in types:
        if not value:
            raise ValueError("is empty text: leave it out, or write null where there is none")
        if "\0" in value:
            raise ValueError("holds a NUL character")
        return value
    if bool in types and value.strip().lower() in ("0", "1"):
        raise ValueError("expected true or false, not a number")
    if int in types and float not in types:
        try:
            number = float(value)
        except ValueError:
            return value
        # Digits alone are read exactly, as pydantic does.
        if number.is_integer() and not value.strip().lstrip("+-").replace("_", "").isdigit():
            return int(number)
    return value


def distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    """The values; ValueError where one of them is there twice."""
    if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{repeated[0]!r} is there twice")
    return values
