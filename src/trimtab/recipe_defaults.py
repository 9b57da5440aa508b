"""Settings that a recipe says once: `defaults` of all stages, and those of a stage that another inherits.

Everything here is about a recipe as it was written, before it is checked: dictionaries. A stage's own settings win
over those that it inherits, and these over the defaults; groups such as lora and sampling are merged by their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Optional

from pydantic import BaseModel, ValidationError, create_model

from trimtab.data.parsing import models_in
from trimtab.data.settings import Settings
from trimtab.json_types import JsonObject, JsonValue

Stages = Mapping[str, type[BaseModel]]
"""The settings of each stage, by its name in a recipe."""
NOT_INHERITED = {"length_encoding"}
"""Of SFT: it excludes the length penalty, which the stage that inherits is there for."""


def defaults_model(stages: Stages) -> type[Settings]:
    """What `defaults` may hold: every setting that some stage has, within the bounds that all of them share."""
    fields: JsonObject = {}
    for name in dict.fromkeys(name for settings in stages.values() for name in settings.model_fields):
        having = [settings.model_fields[name] for settings in stages.values() if name in settings.model_fields]
        bounds = having[0].metadata if all(field.metadata == having[0].metadata for field in having) else []
        annotation: object = having[0].annotation
        for bound in bounds:
            annotation = Annotated[annotation, bound]
        fields[name] = (Optional[annotation], None)  # noqa: UP045  (made of a value)
    return create_model("StageDefaults", __base__=Settings, **fields)


def with_inherited(value: JsonObject, stages: Stages, inherits: Mapping[str, str]) -> JsonObject:
    """The recipe with what stages inherit. inherits: a stage's name, and that of the stage whose settings it takes
    where it has none of its own; one without any settings stays without."""
    whole = dict(value)
    for heir, other in inherits.items():
        own, inherited = _settings(whole.get(heir)), _settings(whole.get(other))
        if own is not None and inherited is not None:
            kept = {name: setting for name, setting in inherited.items() if name not in NOT_INHERITED}
            whole[heir] = merged(kept, own, stages[heir])
    return whole


def with_defaults(
    value: JsonObject, stages: Stages, defaults_type: type[BaseModel], runs: Iterable[str]
) -> JsonObject:
    """The recipe with `defaults` under every stage that the study runs.

    defaults_type: see defaults_model. runs: names of stages, of which one may have no settings. Wrong defaults are
    left for the recipe to complain of.
    """
    defaults = _settings(value.get("defaults"))
    if not defaults:
        return value
    try:
        defaults_type.model_validate(defaults)
    except ValidationError:
        return value
    whole = {name: stage for name, stage in value.items() if name != "defaults"}
    for name in runs:
        whole[name] = _under(defaults, whole.get(name, {}), stages[name])
    return whole


def _under(defaults: Mapping[str, JsonValue], value: JsonValue, settings: type[BaseModel]) -> JsonValue:
    """A stage's settings with the defaults that it has."""
    own = _settings(value)
    return value if own is None else merged(_of(settings, defaults), own, settings)


def _of(settings: type[BaseModel], defaults: Mapping[str, JsonValue]) -> JsonObject:
    return {name: setting for name, setting in defaults.items() if name in settings.model_fields}


def merged(
    under: Mapping[str, JsonValue], over: Mapping[str, JsonValue], settings: type[BaseModel] | None
) -> JsonObject:
    """Both, where `over` wins; a group of settings that is in both is merged likewise, any other value is one."""
    whole = dict(under)
    for name, value in over.items():
        field = settings.model_fields.get(name) if settings else None
        group = next(iter(models_in(field.annotation)), None) if field else None
        below, above = _settings(under.get(name)), _settings(value)
        both = group is not None and below is not None and above is not None
        whole[name] = merged(below or {}, above or {}, group) if both else value
    return whole


def _settings(value: object) -> JsonObject | None:
    """What is set in a group, as it was written or read already; None for anything else."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return value if isinstance(value, dict) else None


def asks_trained_reward(value: JsonObject, runs: Iterable[str]) -> bool:
    """Whether a reward of kind trained drives a stage, or is a second judge, alone or in an ensemble."""
    driving = [(_settings(value.get(name)) or {}).get("rewards") for name in runs]
    return any(_names_trained(reward) for reward in (*driving, value.get("second_judges")))


def _names_trained(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_names_trained, value))
    if isinstance(value, str):  # a member of an ensemble
        return value == "trained"
    reward = _settings(value) or {}
    return reward.get("kind") == "trained" or _names_trained(reward.get("members", ()))
