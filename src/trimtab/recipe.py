"""What to run: a YAML file and dotted overrides. Unknown keys are errors that name the nearest known one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, create_model, field_validator, model_validator

from trimtab.catalogue import CATALOGUE, SFT, START, compared_methods
from trimtab.command_settings import stage_settings as stage_settings  # where scripts look for it
from trimtab.data.parsing import parse
from trimtab.data.settings import ROWS, Seed, Settings
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import EvaluationSettings
from trimtab.json_types import JsonObject
from trimtab.methods.table import METHODS
from trimtab.recipe_defaults import asks_trained_reward, defaults_model, with_defaults, with_inherited
from trimtab.recipe_files import read_recipe
from trimtab.rewards.settings import AnyReward, Rewards, check_judge, reward_named
from trimtab.rewards.settings_base import RewardSettings
from trimtab.sandbox.settings import SandboxSettings
from trimtab.tasks.settings import Tasks
from trimtab.training.resources import ResourceSettings
from trimtab.training.schedule import TrainingSettings

USUAL = ["base", "sft", "dpo"]


STAGES = {name: binding.settings for name, binding in METHODS.items()}
"""The settings of each method's stage, by its name in a recipe."""
INHERITS = {name: binding.inherits for name, binding in METHODS.items() if binding.inherits is not None}


def _known_method(name: str) -> str:
    if name not in compared_methods():
        *others, last = map(repr, compared_methods())
        raise ValueError(f"Input should be {', '.join(others)} or {last}")
    return name


if TYPE_CHECKING:
    StageDefaults = Settings
else:
    StageDefaults = defaults_model(STAGES)


class _BesideStages(Settings):
    """What a recipe says before its stages."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The study's name, and its folder's: runs/NAME."""
    seed: Seed = 0
    """For stages that set none of their own."""
    model: str
    """A Hugging Face folder or hub name, or sandbox:base."""
    tokenizer: str | None = None
    """Where the tokenizer is, when the model's folder has none or not the right one."""
    opponent: str | None = None
    """The model that win rates are against."""
    judge: AnyReward | None = None
    """Who scores completions for win rates: gold (the sandbox's own), or any other reward, by its short name
    or with its settings. None: no win rates."""
    limit: int | None = Field(None, gt=0, le=ROWS)
    """A quick try: at most so many rows of each split, the first, whatever the data; None: all."""
    methods: list[Annotated[str, AfterValidator(_known_method)]] = USUAL
    """What is trained and compared. base is the model as it is; every other method but sft_length starts
    from sft, unless starts_from says otherwise."""
    starts_from: dict[str, Literal["base", "sft"]] = Field({})
    """What a method trains, by its name: base, the model as it is, for one that follows instructions already."""
    data: DataSettings | None = None
    """Your own rows; this or sandbox."""
    second_judges: Rewards = ()
    """Who else scores the same completions. Their tables stand beside the judge's, and no verdict follows from
    them. Any reward; of kind trained, the reward model that the study trains."""
    reward_data: DataSettings | None = None
    """Rows of its own for the reward model that the study trains; None: those of data."""
    prompts: DataSettings | None = None
    """Rows of their own for the methods that a reward drives, such as grpo; None: those of data. Methods are
    compared on the test rows of data, or else on those of prompts."""
    sandbox: SandboxSettings | None = None
    """Rows of trimtab's sandbox; this or data."""
    defaults: StageDefaults = Field(StageDefaults(), exclude=True)
    """Settings for every stage that the study trains and that has them, such as batch_size, precision or lora; a
    stage's own win. Once the recipe is read they are in the stages."""


def _stage_fields() -> JsonObject:
    """A setting for each method of the table, with that method's settings."""
    fields: JsonObject = {}
    for name, binding in METHODS.items():
        kind, usual = binding.settings, binding.settings.model_validate({})
        title = CATALOGUE[name].title[0].upper() + CATALOGUE[name].title[1:]
        if binding.inherits is None:
            fields[name] = kind, Field(usual, description=f"{title}.")
        else:
            fields[name] = (
                kind | None,
                Field(None, description=f"{title}. It has what {binding.inherits} sets; its own settings win."),
            )
    return fields


if TYPE_CHECKING:
    _WithStages = _BesideStages
else:
    _WithStages = create_model("_WithStages", __base__=_BesideStages, **_stage_fields())


class Recipe(_WithStages):
    """A study: models, data, and settings by the name of each method in methods/table.py."""

    reward_model: str | None = None
    """What the reward model starts from that a study trains for rewards of kind 'trained'; None: the SFT model."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How every method is evaluated."""
    resources: ResourceSettings = ResourceSettings()
    """What each stage and evaluation takes of a machine, where a study is spread over several (`--ray`)."""
    tasks: Tasks | None = None
    """Standard tasks that every method, base and opponent are asked, by lm-eval: a list of names, such as
    [ifeval, gsm8k], or settings with names. None: none."""

    @model_validator(mode="before")
    @classmethod
    def _fold_defaults(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        whole = with_inherited(value, STAGES, INHERITS)
        methods = whole.get("methods", USUAL)
        trained = [name for name in methods if name in list(STAGES)] if isinstance(methods, list) else []
        # One without settings of its own has those of the stage that it inherits from, defaults and all.
        runs = [name if whole.get(name) is not None else INHERITS.get(name, name) for name in trained]
        runs += ["reward"] if asks_trained_reward(whole, runs) else []
        starts = whole.get("starts_from")
        other = starts if isinstance(starts, dict) else {}
        begun = [*trained, *runs]
        for name in begun:  # which grows: what a stage starts from runs too
            start = other.get(name, CATALOGUE[name].starts_from)
            begun += [start] if start in STAGES and start not in begun else []
            runs += [start] if start in STAGES else []
        return with_defaults(whole, STAGES, StageDefaults, dict.fromkeys(runs))

    @field_validator("judge", mode="before")
    @classmethod
    def _check_judge(cls, value: object) -> object:
        try:
            return reward_named(value).model_dump(exclude_unset=True) if isinstance(value, str) else value
        except TrimtabError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.data is None) == (self.sandbox is None):
            raise ValueError("give either 'data' (your own) or 'sandbox' (the embedded world)")
        if self.judge is not None:
            check_judge(self.judge, in_sandbox=self.sandbox is not None)
        if (self.judge is None) != (self.opponent is None):
            raise ValueError("'judge' and 'opponent' go together: a win rate needs both")
        _check_second_judges(self)
        _check_starts(self)
        _check_prompts(self)
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError("'methods' must name at least one method, and none twice")
        for name, method in self.rewarded.items():
            if not method.rewards:
                raise ValueError(f"method '{name}' needs a reward: {name}.rewards, such as [{{kind: trained}}]")
            for reward in method.rewards:
                if self.sandbox is None and reward.needs_sandbox:
                    raise ValueError(f"a reward of kind '{reward.kind}' knows the sandbox's world only")
                if not CATALOGUE[name].in_rounds and reward.asks_policy:
                    raise ValueError(
                        f"{name}'s reward of kind '{reward.kind}' needs a model: only online_dpo asks the policy "
                        "itself"
                    )
        _check_inputs(self)
        for name, stage in zip(METHODS, map(self._own, METHODS), strict=True):
            if self.judge is None and stage is not None and stage.chosen_by_judge:
                raise ValueError(f"{name}.best_metric: judge needs a judge, which the recipe does not name")
        for stage in map(self._own, METHODS):
            if stage is not None and "seed" not in stage.model_fields_set:
                stage.seed = self.seed
        return self

    def _own(self, method: str) -> TrainingSettings | None:
        """What the recipe sets of a method; None where it has nothing of its own."""
        settings: TrainingSettings | None = getattr(self, method)
        return settings

    def settings_of(self, method: str) -> TrainingSettings:
        """What a method's stage runs with."""
        binding = METHODS[method]
        settings = self._own(method)
        if settings is None and binding.inherits is not None:
            settings = self._own(binding.inherits)
        completed: TrainingSettings = binding.complete(settings)
        return completed

    def start_of(self, method: str) -> str:
        """The method whose model a method trains, or START: a model that the recipe names."""
        return START if self.starts_from.get(method) == "base" else CATALOGUE[method].starts_from

    def samples_prompts(self, method: str) -> bool:
        """Whether its rows are those of `prompts`."""
        return self.prompts is not None and CATALOGUE[method].driven_by == "reward"

    def rewards_of(self, method: str) -> tuple[RewardSettings, ...]:
        """The rewards that drive a method; none for one that trains on data alone."""
        return tuple(getattr(self._own(method), "rewards", ()))

    @property
    def rewarded(self) -> JsonObject:
        """The methods of this study that a reward drives, with their settings, in the catalogue's order."""
        return {
            name: self.settings_of(name)
            for name, entry in CATALOGUE.items()
            if entry.driven_by == "reward" and name in self.methods
        }

    @property
    def trains_reward(self) -> bool:
        """Whether the study trains a reward model of its own."""
        return self.optimises_trained or self.asks_trained

    @property
    def optimises_trained(self) -> bool:
        """Whether a method is driven by the reward model that the study trains."""
        return any(reward.needs_training for settings in self.rewarded.values() for reward in settings.rewards)

    @property
    def asks_trained(self) -> bool:
        """Whether the reward model that the study trains is a second judge."""
        return any(reward.needs_training for reward in self.second_judges)


def _check_second_judges(recipe: Recipe) -> None:
    """ValueError for one that could not judge, or that nothing would be set beside."""
    if recipe.second_judges and recipe.opponent is None:
        raise ValueError("second_judges need an opponent, which their win rates are against")
    for judge in recipe.second_judges:
        check_judge(judge, in_sandbox=recipe.sandbox is not None, second=True)
        if judge.compares:
            raise ValueError(f"a second judge scores answers one by one, which kind '{judge.kind}' does not")
    if recipe.reward_data is not None and not recipe.trains_reward:
        raise ValueError("reward_data: no reward model is trained in this study, so nothing reads it")


def _check_starts(recipe: Recipe) -> None:
    """ValueError for a method that has no choice of what it trains."""
    free = [name for name, entry in CATALOGUE.items() if entry.starts_from == SFT]
    for name in recipe.starts_from:
        if name not in free:
            raise ValueError(f"starts_from: {name!r} is none of {', '.join(free)}, which can train either model")


def _check_prompts(recipe: Recipe) -> None:
    """ValueError for prompts that nobody would sample, or with a second set of test rows."""
    if recipe.prompts is None:
        return
    if not recipe.rewarded and not _tests(recipe.prompts):
        raise ValueError("prompts: no method of this study is driven by a reward, so nothing reads them")
    if _tests(recipe.prompts) and _tests(recipe.data):
        raise ValueError("data and prompts both name test rows, and methods are compared on one set: leave one out")


def _tests(data: DataSettings | None) -> bool:
    """Whether it names test rows, or sets some apart."""
    return data is not None and bool(data.test or data.test_rows or data.test_share)


def _check_inputs(recipe: Recipe) -> None:
    """ValueError where a method or its engine cannot go on with what SFT's model is fed beside token ids."""
    for name in filter(METHODS.__contains__, recipe.methods):
        recipe.settings_of(name)  # each says what excludes what
    following = [name for name in recipe.methods if recipe.start_of(name) == SFT]
    setting = recipe.settings_of(SFT).added_input
    if setting is None or not {SFT, *following} & set(recipe.methods):
        return
    for name in following:
        if not recipe.settings_of(name).carries_inputs:
            raise ValueError(f"method '{name}' cannot go on from SFT with a {setting}: leave one of them out")
    engines = {
        recipe.evaluation.decoding.engine,
        *(settings.sampling.engine for settings in recipe.rewarded.values()),
    }
    if engines - {"transformers"}:
        raise ValueError(f"sft.{setting} needs engine transformers: vLLM has no input for it")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its file, or by its name where it comes with the package, with `--set` upon it.

    TrimtabError where there is no such file, it is no YAML, or something in it is wrong.
    """
    return check_recipe(*read_recipe(path, overrides))


def check_recipe(path: Path, value: JsonObject) -> Recipe:
    """The recipe that was read from a file. TrimtabError where something in it is wrong."""
    return parse(Recipe, value, str(path))
