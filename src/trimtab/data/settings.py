"""What every model of settings has in common: nothing unknown, nothing that is no number, nothing absurd.

The bounds are far beyond any use. They are there for a slip of the finger, which would otherwise end in an
allocation that fails hours later, or in a number that overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Seed = Annotated[int, Field(ge=0, lt=2**64)]
"""torch's range."""
ROWS = 10**12
TOKENS = 10**7
"""Of one sequence."""
BUDGET = 10**9
"""Tokens of a pass."""
SEVERAL = 10**6
"""Of what is in memory together: the rows of a batch, the samples of a prompt."""
STEPS = 10**9
LEARNING_RATE = 100.0
WEIGHT = 1e6
"""Of one term beside another."""
SECONDS = 1e7
"""Four months."""


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
    def _means_what_it_says(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(plain_types(cls.model_fields[info.field_name or ""].annotation))
        return _meant(value, kinds)


def plain_types(annotation: Any) -> Iterator[Any]:
    """The plain types in an annotation: float and str of `str | dict[str, float]`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for one in inner:
        yield from plain_types(one)


def _meant(value: Any, kinds: set[Any]) -> Any:
    numeric = bool({int, float} & kinds)
    if isinstance(value, bool) and numeric and bool not in kinds:
        raise ValueError("expected a number, not true or false (YAML reads yes, no, on and off so too)")
    if isinstance(value, int | float) and not isinstance(value, bool) and bool in kinds and not numeric:
        raise ValueError("expected true or false, not a number")
    if isinstance(value, str):
        return _meant_text(value, kinds)
    if isinstance(value, list | tuple):
        return [_meant(one, kinds) for one in value]
    if isinstance(value, dict) and not any(isinstance(k, type) and issubclass(k, BaseModel) for k in kinds):
        return {key: _meant(one, kinds) for key, one in value.items()}
    return value


def _meant_text(value: str, kinds: set[Any]) -> Any:
    if str in kinds:
        if not value:
            raise ValueError("is empty text: leave it out, or write null where there is none")
        if "\0" in value:
            raise ValueError("holds a NUL character")
        return value
    if bool in kinds and value.strip().lower() in ("0", "1"):
        raise ValueError("expected true or false, not a number")
    if int in kinds and float not in kinds:
        try:
            number = float(value)
        except ValueError:
            return value
        # Digits alone are read exactly, as pydantic does.
        if number.is_integer() and not value.strip().lstrip("+-").replace("_", "").isdigit():
            return int(number)
    return value


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """ValueError where one is there twice."""
    if twice := [one for i, one in enumerate(values) if one in values[:i]]:
        raise ValueError(f"{twice[0]!r} is there twice")
    return values
