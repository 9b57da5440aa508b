"""The stages of a study, in order: what `study` runs and `plan` counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trimtab.catalogue import CATALOGUE, START, family
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.recipe import Recipe
from trimtab.rewards.settings_base import RewardSettings
from trimtab.training.schedule import TrainingSettings


@dataclass(frozen=True)
class Stage:
    """One stage that a recipe asks for.

    name: of its folder, such as online_dpo-2. method: its key in the catalogue. starts_from: the name of the stage
    whose model it trains; START for a model that the recipe names, which is `model`. rewards: what drives it, where
    a reward does. round: counted from 1, of a method that trains in rounds; else 0.
    """

    name: str
    method: str
    settings: TrainingSettings
    starts_from: str
    model: str
    rewards: tuple[RewardSettings, ...] = ()
    round: int = 0


def stages_of(recipe: Recipe, asks_trained: bool = True) -> list[Stage]:
    """Every stage that the recipe's methods need, each after the one that it starts from. asks_trained: whether a
    reward model is trained for a second judge, too; one of the first training seed judges all."""
    needed = _needed(recipe, recipe.trains_reward if asks_trained else recipe.optimises_trained)
    stages: list[Stage] = []
    for name in (name for name in CATALOGUE if name in needed):
        settings = recipe.settings_of(name)
        rewards = recipe.rewards_of(name)
        start, model = _start(recipe, name)
        if not CATALOGUE[name].in_rounds:
            stages.append(Stage(name, name, settings, start, model, rewards))
            continue
        assert isinstance(settings, OnlineDPOSettings)
        for number in range(1, settings.rounds + 1):
            stages.append(Stage(f"{name}-{number}", name, settings, start, model, rewards, number))
            start = stages[-1].name
    return stages


def last_stages(stages: Iterable[Stage]) -> dict[str, str]:
    """Method → the name of its last stage, whose model is the method's."""
    return {family(stage.name): stage.name for stage in stages}


def _needed(recipe: Recipe, trains_reward: bool) -> set[str]:
    """The recipe's methods that train, with those that they start from and the reward model."""
    needed: set[str] = set()
    waiting = [name for name in recipe.methods if CATALOGUE[name].driven_by != "nothing"]
    waiting += ["reward"] if trains_reward else []
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            start, _ = _start(recipe, name)
            waiting += [] if start == START else [start]
    return needed


def _start(recipe: Recipe, name: str) -> tuple[str, str]:
    """The stage that a method starts from, and the model where that is none of the study's stages."""
    if name == "reward" and recipe.reward_model:
        return START, recipe.reward_model
    return recipe.start_of(name), recipe.model
