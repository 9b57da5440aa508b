"""What a recipe names: models by their places, rewards by what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from trimtab.data.settings import NAMES_A_MODEL
from trimtab.errors import TrimtabError
from trimtab.models.gguf.place import model_place
from trimtab.recipe import Recipe
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import make_reward
from trimtab.rewards.settings_base import RewardSettings
from trimtab.sandbox.places import starter
from trimtab.training.schedule import TrainingSettings

Stages = TypeVar("Stages", bound=TrainingSettings)
SCORES = Path("cache") / "scores.sqlite"
"""Of remote rewards, in a study's folder or an evaluation's."""


def resolve_model(name: str) -> str:
    """The folder or hub name that a model's name stands for.

    sandbox:base and sandbox:instruct are folders of the package, ~ is the user's; others stand for themselves.
    """
    if not name.startswith("sandbox:"):
        return model_place(name)
    folder = starter(name.removeprefix("sandbox:"))
    if not folder.is_dir():
        raise TrimtabError(f"model {name}: the sandbox has sandbox:base and sandbox:instruct.")
    return str(folder)


def with_model_places(settings: Stages) -> Stages:
    """The settings with the places of the models that they name, such as a teacher."""
    named = {
        name: resolve_model(source)
        for name, field in type(settings).model_fields.items()
        if NAMES_A_MODEL in field.metadata and (source := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=named) if named else settings


def named_models(recipe: Recipe) -> dict[str, tuple[str, str] | None]:
    """By role: the name and the place of each model that the recipe names."""
    judge = recipe.judge.local_model if recipe.judge else None
    named = {
        "model": recipe.model,
        "opponent": recipe.opponent,
        "reward model's start": recipe.reward_model,
        "judge": judge,
    }
    return {role: (name, resolve_model(name)) if name else None for role, name in named.items()}


def make_judge(settings: RewardSettings | None, out: Path) -> Reward | None:
    """The judge of a study, or none. TrimtabError where it cannot be made."""
    return make_reward([settings], rewards_by_name(), out / SCORES) if settings else None


def rewards_by_name() -> dict[str, Reward]:
    """The rewards that a name alone stands for, by that name."""
    from trimtab.sandbox.judge import GoldJudge  # with all of the sandbox's prompts

    return {"gold": GoldJudge()}
