"""Which rewards a recipe asks for, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.models.policy import Precision
from trimtab.rewards.base import Reward
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.function import FunctionReward, load_function
from trimtab.rewards.weighted import WeightedReward


class RewardSettings(TrustSettings):
    """One reward. With several, the reward is their weighted sum."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["function", "classifier", "gold", "trained"]
    """function: of Python. classifier: a local model. gold: the sandbox's judge. trained: the reward model
    that the study trains."""
    path: str | None = None
    """function: path/to/file.py:name or package.module:name."""
    model: str | None = None
    """classifier: a Hugging Face folder or hub name with one label."""
    tokenizer: str | None = None
    """classifier: where it is not the model's own."""
    token_budget: int = Field(8192, gt=0)
    """classifier: tokens of a pass."""
    precision: Precision = "float32"
    """classifier: of the products."""
    weight: float = Field(1.0, allow_inf_nan=False)
    name: str | None = None
    """function, classifier: in logs and breakdowns, instead of the function's or the folder's."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> RewardSettings:
        of_kind = {
            "function": {"path", "name"},
            "classifier": {"model", "tokenizer", "token_budget", "precision", "name", *TrustSettings.model_fields},
        }.get(self.kind, set())
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        given = {name for name, default in defaults.items() if getattr(self, name) != default}
        if foreign := sorted(given - of_kind - {"kind", "weight"}):
            raise ValueError(f"a reward of kind {self.kind} takes no {', '.join(foreign)}")
        needed = {"function": "path", "classifier": "model"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"a reward of kind {self.kind} needs {needed}")
        return self


def make_reward(settings: Sequence[RewardSettings], known: Mapping[str, Reward]) -> Reward:
    """The reward that the settings describe: the only one, where its weight is 1, else a weighted sum.

    known: rewards that are not made here, by kind ("gold", "trained"). TrimtabError where one is missing,
    a function or model can't be loaded, or two rewards have one name.
    """
    if not settings:
        raise TrimtabError("no reward: name at least one (kind: function, classifier, gold or trained).")
    parts = [(_make(one, known), one.weight) for one in settings]
    return parts[0][0] if len(parts) == 1 and parts[0][1] == 1.0 else WeightedReward(parts)


def _make(settings: RewardSettings, known: Mapping[str, Reward]) -> Reward:
    if settings.kind == "function":
        return FunctionReward(load_function(settings.path or ""), settings.name)
    if settings.kind == "classifier":
        return ClassifierReward(
            settings.model or "",
            settings.name,
            tokenizer=settings.tokenizer,
            token_budget=settings.token_budget,
            precision=settings.precision,
            trust=settings,
        )
    if settings.kind not in known:
        needs = {"gold": "the sandbox", "trained": "a stage that trains a reward model"}[settings.kind]
        raise TrimtabError(f"reward of kind {settings.kind}: there is none here; it needs {needs}.")
    return known[settings.kind]
