"""Search spaces in a recipe: a range or choices where a setting's value stands, for `trimtab tune`.

dpo:
  learning_rate: {low: 1.0e-7, high: 1.0e-5, log: true}
  beta: [0.05, 0.1, 0.3]
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from trimtab.catalogue import CATALOGUE
from trimtab.data.parsing import parse
from trimtab.data.settings import Seed, Settings, distinct, plain_types
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.methods.table import METHODS

SECTION = "tune"
"""The part of a recipe that says how its spaces are searched."""
Choice = bool | int | float | str | None
Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class RangeSpace(Settings):
    """Every number from low to high."""

    low: Number
    """The smallest value that is tried."""
    high: Number
    """The largest."""
    log: bool = False
    """Whether values are drawn evenly by their logarithm: a learning rate's should be."""
    start: Number | None = None
    """What the first trial takes; None: the setting's default, or the middle."""

    @model_validator(mode="after")
    def _check(self) -> RangeSpace:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("log: true needs a low above 0")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError("start must lie between low and high")
        return self

    @property
    def middle(self) -> float:
        """Halfway between low and high, by their logarithms where log is true."""
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2


class TuneSettings(Settings):
    """How a recipe's search spaces are searched."""

    method: str | None = None
    """Whose answers are measured; None: the method with a search space, of several the last."""
    trials: int = Field(24, gt=0, le=10**5)
    """How many settings are tried, those of the recipe first."""
    objectives: dict[str, Literal["highest", "lowest"]] = Field({"win_rate": "highest"}, min_length=1)
    """The metrics that are wanted high or low on the tuning prompts: win_rate, judge_score, length, …"""
    constraints: dict[str, Number] | None = Field(None, min_length=1)
    """What a metric may be at most, such as excess_length: 20; None: there is none."""
    seeds: tuple[Seed, ...] | None = None
    """Training seeds of a trial, which are pooled; None: the recipe's own."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How the next settings are chosen: tpe learns from those before; random does not."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the sampler."""
    prune_by: str | None = None
    """A metric of the validation rows while a stage trains, such as eval_accuracy: a trial whose value is below the
    median of the others' at the same step is stopped. None: all are trained to their end. One whose meaning depends
    on what is searched, as a DPO loss on beta, won't do."""
    prune_is: Literal["highest", "lowest"] = "highest"
    """Whether the highest or the lowest prune_by is best."""

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value == ():
            raise ValueError("name at least one training seed")
        return None if value is None else distinct(value)


@dataclass(frozen=True)
class Space:
    """Of one setting. path: dotted, as in `--set`. start: what the first trial takes. choices: where it is no
    range. integer: whether the setting takes whole numbers only."""

    path: str
    start: Choice
    range: RangeSpace | None = None
    choices: tuple[Choice, ...] = ()
    integer: bool = False

    @property
    def ends(self) -> tuple[Choice, ...]:
        """The values that all others lie between, or all that there are."""
        if self.range is None:
            return self.choices
        ends = (self.range.low, self.range.high)
        return tuple(map(int, ends)) if self.integer else ends


def spaces_in(value: JsonObject, where: str) -> list[Space]:
    """The search spaces of a recipe's stages, in the order of the file. where: what messages begin with."""
    found: list[Space] = []
    for stage, binding in METHODS.items():
        settings = value.get(stage)
        if isinstance(settings, dict):
            found += _of(binding.settings, settings, (stage,), where)
    return found


def _of(model: type[BaseModel], value: JsonObject, path: tuple[str, ...], where: str) -> Iterator[Space]:
    for name, setting in value.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        dotted = ".".join((*path, name))
        inside = next(
            (t for t in plain_types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None
        )
        if isinstance(setting, dict) and _is_range(setting):
            yield _range(field, setting, dotted, where)
        elif isinstance(setting, dict) and setting.keys() <= {"choices", "start"} and "choices" in setting:
            yield _choices(field, setting["choices"], setting.get("start", ...), dotted, where)
        elif isinstance(setting, dict) and inside is not None:
            yield from _of(inside, setting, (*path, name), where)
        elif isinstance(setting, list) and not _takes_lists(field.annotation):
            yield _choices(field, setting, ..., dotted, where)


def _is_range(setting: JsonObject) -> bool:
    return {"low", "high"} <= setting.keys() <= {"low", "high", "log", "start"}


def _takes_lists(annotation: object) -> bool:
    """Whether a setting's value may itself be a list."""
    if get_origin(annotation) is Annotated:
        return _takes_lists(get_args(annotation)[0])
    if get_origin(annotation) in (list, tuple, set):
        return True
    return any(map(_takes_lists, get_args(annotation)))


def _range(field: FieldInfo, setting: JsonObject, path: str, where: str) -> Space:
    types = set(plain_types(field.annotation))
    if not {int, float} & types:
        raise TrimtabError(f"{where}: {path}: a range is for numbers; give choices as a list.")
    space, integer = parse(RangeSpace, setting, f"{where}: {path}"), float not in types
    if integer and not (space.low.is_integer() and space.high.is_integer()):
        raise TrimtabError(f"{where}: {path}: takes whole numbers, so low and high must be some.")
    start = space.start if space.start is not None else _default(field)
    if not isinstance(start, int | float) or isinstance(start, bool) or not space.low <= start <= space.high:
        start = space.middle
    return Space(path, round(start) if integer else float(start), space, (), integer)


def _choices(field: FieldInfo, values: JsonValue, start: object, path: str, where: str) -> Space:
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(v, Choice) for v in values):
        raise TrimtabError(f"{where}: {path}: expected two choices or more, of numbers or texts.")
    default = _default(field)
    first: Choice = values[0]
    if start is not ... or default in values:
        first = start if start is not ... else default  # type: ignore[assignment]
    if first not in values or len(set(map(repr, values))) < len(values):
        raise TrimtabError(f"{where}: {path}: choices must differ, and start must be one of them.")
    return Space(path, first, None, tuple(values))


def _default(field: FieldInfo) -> object:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def with_values(value: JsonObject, values: Mapping[str, Choice]) -> JsonObject:
    """The recipe with these values in the places of its spaces, and without the part on how they are searched."""
    filled = copy.deepcopy({name: part for name, part in value.items() if name != SECTION})
    for path, chosen in values.items():
        *outer, last = path.split(".")
        place = filled
        for name in outer:
            place = place[name]
        place[last] = chosen
    return filled


def read_spaces(value: JsonObject, where: str) -> tuple[TuneSettings, list[Space]]:
    """How a recipe is searched, and its spaces. TrimtabError where it has none, or one holds a value that its
    setting does not take."""
    settings = parse(TuneSettings, value.get(SECTION) or {}, f"{where}: {SECTION}")
    spaces = spaces_in(value, where)
    if not spaces:
        raise TrimtabError(
            f"{where}: has no search space. Write one where a stage's setting stands, such as "
            "dpo.learning_rate: {low: 1e-7, high: 1e-5, log: true}."
        )
    for space in spaces:
        stage, *_ = space.path.split(".")
        for end in space.ends:
            tried = with_values(value, {other.path: other.start for other in spaces} | {space.path: end})
            try:
                METHODS[stage].settings.model_validate(tried[stage])
            except ValidationError as error:
                said = error.errors()[0]["msg"]
                raise TrimtabError(f"{where}: {space.path}: {end!r} is none that it takes: {said}.") from None
    return settings, spaces


def tuned_method(settings: TuneSettings, spaces: list[Space], methods: list[str], where: str) -> str:
    """The method whose answers are measured. TrimtabError where it is none of the study's."""
    if settings.method is not None:
        chosen = settings.method
    else:
        stages = {space.path.split(".")[0] for space in spaces}
        able = [name for name in CATALOGUE if name in stages and name in methods]
        chosen = able[-1] if able else ""
    if chosen not in methods or CATALOGUE[chosen].driven_by == "nothing":
        raise TrimtabError(f"{where}: tune.method: name one of the recipe's methods, whose answers are measured.")
    return chosen


def refuse_spaces(value: JsonObject, where: str) -> None:
    """TrimtabError where a recipe has search spaces, which a study can't train with."""
    spaces = spaces_in(value, where)
    if spaces or SECTION in value:
        named = ", ".join(space.path for space in spaces) or SECTION
        raise TrimtabError(
            f"{where}: has search spaces ({named}): `trimtab tune` searches them; a study takes a value, such as "
            f"--set {spaces[0].path if spaces else 'dpo.beta'}={spaces[0].start if spaces else 0.1}."
        )
