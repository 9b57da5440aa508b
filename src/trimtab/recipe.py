"""What to run: a YAML file and dotted overrides. Unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import EvaluationSettings
from trimtab.training.dpo import DPOSettings
from trimtab.training.sft import SFTSettings

MethodName = Literal["base", "sft", "dpo"]
Settings = TypeVar("Settings", bound=BaseModel)


class SandboxSettings(BaseModel):
    """The embedded world in place of data files: rows that are made, the same for the same seed."""

    model_config = ConfigDict(extra="forbid")

    train_rows: int = Field(3000, gt=0)
    validation_rows: int = Field(300, gt=0)
    test_rows: int = Field(400, gt=0)
    max_length: int = Field(384, gt=1)
    seed: int = 0


class Recipe(BaseModel):
    """A study."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    """For stages that set none of their own."""
    model: str
    """A Hugging Face folder or hub name, or sandbox:base."""
    tokenizer: str | None = None
    """Where the tokenizer is, when the model's folder has none or not the right one."""
    opponent: str | None = None
    """The model that win rates are against."""
    judge: Literal["gold"] | None = None
    """gold: the sandbox's own judge. None: no win rates."""
    methods: list[MethodName] = ["base", "sft", "dpo"]
    data: DataSettings | None = None
    sandbox: SandboxSettings | None = None
    sft: SFTSettings = SFTSettings()
    dpo: DPOSettings = DPOSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if (self.data is None) == (self.sandbox is None):
            raise ValueError("give either 'data' (your own) or 'sandbox' (the embedded world)")
        if self.judge == "gold" and self.sandbox is None:
            raise ValueError("judge 'gold' knows the sandbox's world only; leave it out for your own data")
        if (self.judge is None) != (self.opponent is None):
            raise ValueError("'judge' and 'opponent' go together: a win rate needs both")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError("'methods' must name at least one method, and none twice")
        for stage in (self.sft, self.dpo):
            if "seed" not in stage.model_fields_set:
                stage.seed = self.seed
        return self


STAGES: dict[str, type[SFTSettings] | type[DPOSettings]] = {"sft": SFTSettings, "dpo": DPOSettings}


def stage_settings(
    method: str, data: str, validation: str | None, overrides: Sequence[str]
) -> tuple[SFTSettings | DPOSettings, DataSettings]:
    """The settings of one stage run by itself: `beta=0.2` is the method's, `data.max_length=512` the data's."""
    value = apply_overrides({}, overrides)
    rows = data_settings(data, validation, value.pop("data", {}))
    return parse(STAGES[method], value, f"--set ({method})"), rows


def data_settings(data: str, validation: str | None, value: dict[str, Any]) -> DataSettings:
    if not isinstance(value, dict):
        raise TrimtabError(f"--set data={value}: data has settings inside, such as data.max_length=512.")
    given = {"train": data} | ({"validation": validation} if validation else {})
    return parse(DataSettings, given | value, "--set (data)")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    if not path.is_file():
        raise TrimtabError(f"recipe {path}: no such file. recipes/ has some to start from.")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or no such date
        raise TrimtabError(f"recipe {path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise TrimtabError(f"recipe {path}: expected settings with names, found {type(value).__name__}.")
    return parse(Recipe, apply_overrides(value, overrides), str(path))


def apply_overrides(value: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`sft.learning_rate=1e-4`: the value is read as YAML."""
    for override in overrides:
        key, found, text = override.partition("=")
        if not found or not key:
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
            place[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise TrimtabError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    return value


def parse(model: type[Settings], value: dict[str, Any], where: str) -> Settings:
    """Validates, and turns what is wrong into one message a person can act on."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise TrimtabError("\n".join(_explain(model, item, where) for item in error.errors())) from None


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    *path, last = item["loc"] or ("",)
    name = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        known = list(_fields(model, path))
        near = difflib.get_close_matches(str(last), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(known))}."
        return f"{where}: unknown setting {name!r}.{hint}"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool, type(None))) else ""
    return f"{where}: {name}: {message}{shown}" if name else f"{where}: {message}"


def _fields(model: type[BaseModel], path: Sequence[Any]) -> dict[str, Any]:
    """The settings that are known at a place."""
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        inner = [t for t in options if isinstance(t, type) and issubclass(t, BaseModel)]
        if not inner:
            return {}
        model = inner[0]
    return dict(model.model_fields)
