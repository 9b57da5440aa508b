"""One trial: the settings of a recipe with its spaces filled, trained, and measured on the tuning prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from trimtab.data.parsing import parse
from trimtab.data.splits import Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.row_columns import cluster_names
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.folder_lock import waiting_for
from trimtab.json_types import JsonObject
from trimtab.methods.table import METHODS
from trimtab.recipe import Recipe
from trimtab.recipe_spaces import Choice, Space, TuneSettings, with_values
from trimtab.rewards.base import Reward
from trimtab.study.run import StudyRows
from trimtab.study.seeds import recipe_of_seed
from trimtab.study.stages import Stage, last_stages
from trimtab.study.training_seed import TrainingSeed, asked_first, evaluate_shared, opponent_of
from trimtab.training.callbacks import Callback

SHARED = "shared"
"""The folder of stages that no search space touches, and of what all trials are compared with."""
TUNING, TEST = "tuning", "test"
Callbacks = Callable[[Stage], Sequence[Callback]]


@dataclass(frozen=True)
class Bench:
    """What all trials of a search share.

    value: the recipe as it is written. method: whose answers are measured. rows: the study's; tuning: the prompts
    that trials are measured on stand in place of its test rows.
    """

    value: JsonObject
    settings: TuneSettings
    spaces: Sequence[Space]
    method: str
    out: Path
    rows: StudyRows
    tuning: Splits
    judge: Reward | None

    def recipe(self, values: Mapping[str, Choice]) -> Recipe:
        """The recipe of a trial. TrimtabError where its values don't go together."""
        filled = with_values(self.value, values) | {"methods": [self.method]}
        return parse(Recipe, filled, f"trial with {json.dumps(dict(values))}")

    @property
    def start(self) -> dict[str, Choice]:
        """The values of the first trial, the recipe's own."""
        return {space.path: space.start for space in self.spaces}

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """Of every trial."""
        return self.settings.seeds or (self.recipe(self.start).seed,)

    def folder(self, values: Mapping[str, Choice]) -> Path:
        """A trial's: the same values are the same trial, whoever draws them."""
        text = json.dumps(dict(values), sort_keys=True)
        return self.out / "trials" / hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def seeds(self, values: Mapping[str, Choice], folder: Path, on: str) -> list[TrainingSeed]:
        """The training seeds of a trial, with the tuning prompts or the test prompts to answer. What no space
        touches is in the shared folder."""
        rows, recipe = self.rows, self.recipe(values)
        splits = self.tuning if on == TUNING else rows.splits
        common = self.out / SHARED
        return [
            TrainingSeed(
                recipe_of_seed(recipe, seed), rows.data, splits, folder, self.judge, rows.sampled, rows.of_reward,
                self.training_seeds[0], shared=common, untouched=self.untouched, answers=_answers(on),
            )
            for seed in self.training_seeds
        ]  # fmt: skip

    @cached_property
    def untouched(self) -> frozenset[str]:
        """Stages that are the same in every trial: no space is theirs, what they inherit's, or a stage's before."""
        touched = {space.path.split(".")[0] for space in self.spaces}
        touched |= {name for name, binding in METHODS.items() if binding.inherits in touched}
        first = recipe_of_seed(self.recipe(self.start), self.training_seeds[0])
        probe = TrainingSeed(first, self.rows.data, self.rows.splits, self.out, None)
        free: set[str] = set()
        for stage in probe.stages.values():  # each after those that it starts from
            if stage.method not in touched and all(name in free for name in probe.waits_for(stage)):
                free.add(stage.name)
        return frozenset(free)


def _answers(on: str) -> str:
    return "evaluation" if on == TEST else f"evaluation-{on}"


def prepare(bench: Bench, on: str) -> MethodOutputs | None:
    """Trains what all trials share, once, whichever process comes first, and has the opponent answer. Returns the
    opponent's answers; None without one."""
    common = bench.out / SHARED
    with waiting_for(common):
        seeds = bench.seeds(bench.start, common, on)
        for seed in seeds:
            for stage in seed.stages.values():
                if stage.name in bench.untouched:
                    seed.train(stage)
        recipe = seeds[0].recipe
        if recipe.opponent is None:
            return None
        name = asked_first(recipe) or opponent_of(recipe)
        return replace(evaluate_shared(seeds, name), name=f"opponent {recipe.opponent}")


def run_trial(
    bench: Bench, values: Mapping[str, Choice], name: str, on: str, callbacks: Callbacks = lambda stage: ()
) -> dict[int, MethodOutputs]:
    """Trains a trial's stages and has its model answer; what is done already is kept. Returns its answers by
    training seed, under this name."""
    out: dict[int, MethodOutputs] = {}
    folder = bench.folder(values)
    for seed in bench.seeds(values, folder, on):
        for stage in seed.stages.values():
            if stage.name not in bench.untouched:
                seed.train(stage, callbacks(stage))
        last = last_stages(seed.stages.values())[bench.method]
        answers = seed.evaluate(bench.method, seed.model_of(last))
        out[seed.recipe.seed] = replace(answers, name=name)
    return out


def compared(
    bench: Bench, trials: Mapping[str, Mapping[int, MethodOutputs]], opponent: MethodOutputs | None, on: str
) -> StudyOutputs:
    """The answers of several trials by their names, as those of a study's methods."""
    splits = bench.tuning if on == TUNING else bench.rows.splits
    clusters = cluster_names(splits.test, bench.recipe(bench.start).evaluation.clusters)
    by_seed = {seed: [answers[seed] for answers in trials.values()] for seed in bench.training_seeds}
    return StudyOutputs(by_seed, (), opponent, clusters=clusters)


def measured(bench: Bench, answers: Mapping[int, MethodOutputs], opponent: MethodOutputs | None) -> MethodResult:
    """A trial's numbers on the tuning prompts."""
    about = About(name="trial", judge=_judge(bench))
    [name] = {one.name for one in answers.values()}
    results = summarise(compared(bench, {name: answers}, opponent, TUNING), about)
    return results.methods[name]


def _judge(bench: Bench) -> str | None:
    judge = bench.recipe(bench.start).judge
    return judge.describe() if judge else None


def wanted(result: MethodResult, metric: str) -> float:
    """A metric of a trial. TrimtabError where it is not known."""
    value = result.value(metric)
    if value is None:
        known = ", ".join(result.estimates)
        raise TrimtabError(f"tune: {metric} is not known of a trial's answers; there are {known}.")
    return value
