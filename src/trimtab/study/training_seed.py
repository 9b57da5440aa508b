"""One training seed of a study: its stages, each trained from the one before it, and what their models answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trimtab.catalogue import ordered_methods
from trimtab.data.day import day_of_runs
from trimtab.data.splits import DataSettings, Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import Generation, MethodOutputs, read_generations
from trimtab.evaluation.settings import EvaluationTask
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.rounds import rewards_of_rounds, run_round
from trimtab.methods.table import METHODS
from trimtab.models.lora import hash_model
from trimtab.models.weights import is_tiny
from trimtab.notices import say
from trimtab.recipe import Recipe
from trimtab.rewards.base import Reward
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.settings import make_reward, named_apart
from trimtab.study.collect import SeedRun
from trimtab.study.sources import SCORES, resolve_model, rewards_by_name, with_model_places
from trimtab.study.stages import Stage, last_stages, stages_of
from trimtab.tasks.ask import with_tasks, with_template
from trimtab.tasks.settings import TaskSettings
from trimtab.training.callbacks import Callback
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import run_stage

BASE, OPPONENT = "base", "opponent"


@dataclass(frozen=True)
class TrainingSeed:
    """What one seed's stages and evaluations share. recipe: with this seed; out: the study's folder. sampled: the
    rows of their own of methods that a reward drives, where they have any; of_reward: those of the reward model.
    first_seed: of the study's seeds the one whose reward model is the second judge of all; None: this one. shared:
    a folder that several studies have in common, where the stages `untouched` and what is the same for all of them
    are kept; None: this study's own. answers: the name of the folder of evaluations."""

    recipe: Recipe
    data: DataSettings
    splits: Splits
    out: Path
    judge: Reward | None
    sampled: tuple[DataSettings, Splits] | None = None
    of_reward: tuple[DataSettings, Splits] | None = None
    first_seed: int | None = None
    shared: Path | None = None
    untouched: frozenset[str] = frozenset()
    answers: str = "evaluation"

    @property
    def folder(self) -> Path:
        """Of this training seed."""
        return self.out / f"seed-{self.recipe.seed}"

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """By name, each after the one that it starts from."""
        is_first = self.first_seed in (None, self.recipe.seed)
        return {stage.name: stage for stage in stages_of(self.recipe, asks_trained=is_first)}

    @cached_property
    def base(self) -> str:
        """The folder or hub name of the model that the recipe starts from."""
        return resolve_model(self.recipe.model)

    @property
    def is_tiny(self) -> bool:
        """Whether the model that the recipe starts from is too small for several threads to share its products."""
        return is_tiny(self.base)

    def model_of(self, stage: str) -> str:
        """The folder of the model that a stage leaves."""
        return str(self._places(stage) / stage / "best")

    def _places(self, stage: str) -> Path:
        """Where a stage's folder is."""
        kept = self.shared if self.shared is not None and stage in self.untouched else self.out
        return kept / f"seed-{self.recipe.seed}" / "stages"

    def models(self) -> dict[str, str]:
        """Method → folder of its model, of the recipe's methods."""
        last = {method: self.model_of(name) for method, name in last_stages(self.stages.values()).items()}
        return {name: (last | {BASE: self.base})[name] for name in ordered_methods(self.recipe.methods)}

    def run(self) -> SeedRun:
        """Trains and evaluates every method; what is done already is kept."""
        for stage in self.stages.values():
            self.train(stage)
        outputs = [self.evaluate(name, model) for name, model in self.models().items() if name != BASE]
        return SeedRun(self.recipe.seed, self.folder, self.models(), outputs)

    def train(self, stage: Stage, callbacks: Sequence[Callback] = ()) -> None:
        """Trains one stage, whose model it starts from is there. That model is also its reference. callbacks: who
        else sees its metrics, where it is no round of several."""
        from_stage = stage.starts_from in self.stages
        model = self.model_of(stage.starts_from) if from_stage else resolve_model(stage.model)
        method, settings = METHODS[stage.method].method, with_model_places(stage.settings)
        places, cache = self._places(stage.name), (self.shared or self.out) / "cache"
        data, splits = self._rows_of(stage.method) or (self.data, self.splits)
        driven = stage.method in self.recipe.rewarded
        rewards = self._rewards_for(stage) if driven or isinstance(settings, OnlineDPOSettings) else {}
        scores = cache / SCORES.name
        if isinstance(settings, OnlineDPOSettings):
            reward = rewards_of_rounds(settings, rewards, scores)(model)
            judge = self._watching(settings, driven=False)
            run_round(stage.round, settings, data, splits, model, places, cache, reward, judge=judge)
            return
        own = resolve_model(self.recipe.tokenizer) if self.recipe.tokenizer else self.base
        run_stage(
            stage.name, method, settings, data, model, places / stage.name,
            own if model == self.base and not from_stage else None,
            cache, splits,
            reward=make_reward(stage.rewards, rewards, scores) if driven else None,
            judge=self._watching(settings, driven),
            day=day_of_runs(self.shared or self.out), callbacks=callbacks,
        )  # fmt: skip

    def _watching(self, settings: TrainingSettings, driven: bool) -> Reward | None:
        """The judge, where it is asked while a stage trains: of a method that a reward drives it watches the
        samples."""
        watches = driven and self.judge is not None and not self.judge.compares
        return self.judge if watches or settings.chosen_by_judge else None

    def _rows_of(self, method: str) -> tuple[DataSettings, Splits] | None:
        """A method's rows of its own."""
        if self.recipe.samples_prompts(method):
            return self.sampled
        return self.of_reward if method == "reward" else None

    def waits_for(self, stage: Stage) -> list[str]:
        """The stages that are done before this one: what it starts from, and the reward model that it asks."""
        asked = [self._reward_stage.name] if any(reward.needs_training for reward in stage.rewards) else []
        return [name for name in (stage.starts_from, *asked) if name in self.stages]

    def _rewards_for(self, stage: Stage) -> Mapping[str, Reward]:
        """The rewards that a name alone stands for, and the trained reward model where the stage asks it."""
        asked = any(reward.needs_training for reward in stage.rewards)
        return rewards_by_name() | ({"trained": self.trained_reward} if asked else {})

    @property
    def _reward_stage(self) -> Stage:
        return next(stage for stage in self.stages.values() if METHODS[stage.method].method.role != "policy")

    @cached_property
    def trained_reward(self) -> ClassifierReward:
        """The reward model that this seed trains, once it is there, in the precision that it was trained in."""
        stage = self._reward_stage
        return ClassifierReward(
            self.model_of(stage.name),
            name="proxy",
            precision=stage.settings.precision,
            trust=with_model_places(stage.settings),
        )

    def second_judges(self) -> dict[str, Reward]:
        """By name, ready to score. The trained one is this seed's."""
        judges = named_apart(self.recipe.second_judges)
        ready = rewards_by_name() if judges else {}
        ready |= {"trained": self.trained_reward} if self.recipe.asks_trained else {}
        return {name: make_reward([judge], ready, self.out / SCORES) for name, judge in judges.items()}

    def evaluate(self, name: str, model: str) -> MethodOutputs:
        """Completes, measures and judges one model's answers, and asks it the standard tasks; what is done already
        is kept."""
        recipe = self.recipe
        tokenizer = resolve_model(recipe.tokenizer) if recipe.tokenizer and name == BASE else None
        task = EvaluationTask(
            name, model, hash_model(model), self.splits.test, self.splits.validation, recipe.evaluation, self.data,
            self.judge, self.folder / self.answers / name, tokenizer, say, day_of_runs(self.shared or self.out),
            opponent=self.opponent_answers(name),
        )  # fmt: skip
        return with_tasks(measure(task), task, self.tasks)

    @cached_property
    def tasks(self) -> TaskSettings | None:
        """The standard tasks that models are asked, all with a chat template or all without."""
        tokenizer = resolve_model(self.recipe.tokenizer or self.recipe.model)
        return self.recipe.tasks and with_template(self.recipe.tasks, tokenizer, self.recipe.evaluation)

    def opponent_answers(self, name: str) -> Sequence[Generation] | None:
        """The opponent's, which is evaluated first, for a judge that compares; None where it needs none, or where
        the opponent itself is evaluated."""
        if self.judge is None or not self.judge.compares or name == opponent_of(self.recipe):
            return None
        kept = keeper_of(self.shared or self.out, opponent_of(self.recipe), self.answers)
        return read_generations(kept / "generations.jsonl")


def shared_models(recipe: Recipe) -> dict[str, str]:
    """The models that all training seeds share and that are measured once: name -> folder or hub name. An opponent
    that is the base is not asked a second time."""
    models = {BASE: resolve_model(recipe.model)} if BASE in recipe.methods else {}
    opponent = resolve_model(recipe.opponent) if recipe.opponent else None
    if opponent is not None and (models.get(BASE) != opponent or recipe.tokenizer is not None):
        models[OPPONENT] = opponent
    return models


def opponent_of(recipe: Recipe) -> str:
    """Under which of `shared_models` the opponent is measured."""
    return OPPONENT if OPPONENT in shared_models(recipe) else BASE


def asked_first(recipe: Recipe) -> str | None:
    """The shared model that is evaluated before all others: the opponent, where the judge compares with it."""
    return opponent_of(recipe) if recipe.judge is not None and recipe.judge.compares else None


def keeper_of(out: Path, name: str, answers: str = "evaluation") -> Path:
    """The folder of what one of `shared_models` answered. TrimtabError where it was not asked yet."""
    for folder in sorted(out.glob(f"seed-*/{answers}/{name}")):
        if (folder / "inputs.json").is_file():
            return folder
    raise TrimtabError(f"{out}: {name} was not evaluated yet, and the judge compares with its answers.")


def evaluate_shared(seeds: Sequence[TrainingSeed], name: str) -> MethodOutputs:
    """What one of `shared_models` answers, kept with the first training seed that has it."""
    keeper = _keeper(seeds, name)
    return keeper.evaluate(name, shared_models(keeper.recipe)[name])


def folder_of_shared(seeds: Sequence[TrainingSeed], name: str) -> Path:
    """Where the evaluation of one of `shared_models` is kept."""
    keeper = _keeper(seeds, name)
    return keeper.folder / keeper.answers / name


def _keeper(seeds: Sequence[TrainingSeed], name: str) -> TrainingSeed:
    return next((s for s in seeds if (s.folder / s.answers / name).is_dir()), seeds[0])
