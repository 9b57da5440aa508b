"""A study as a graph of tasks: its stages and evaluations, and what each waits for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from trimtab.study.stages import last_stages
from trimtab.study.training_seed import BASE, TrainingSeed, asked_first, evaluate_shared, shared_models


class Task(NamedTuple):
    """One piece of work. seed: the place of its training seed. stage: what is trained, or None where `method`'s
    answers are measured. waits_for: stages of the same seed. after: a shared model that is measured before."""

    seed: int
    stage: str | None
    method: str
    waits_for: tuple[str, ...]
    after: str | None = None

    def may_begin(self, done: Collection[Task]) -> bool:
        """Whether what it waits for is among what is done."""
        trained = {(task.seed, task.stage) for task in done}
        asked = {task.method for task in done if task.is_shared}
        return all((self.seed, name) in trained for name in self.waits_for) and self.after in {None, *asked}

    @property
    def is_shared(self) -> bool:
        """Whether it measures a model that all training seeds share."""
        return self.stage is None and not self.waits_for

    def title(self, seeds: Sequence[TrainingSeed]) -> str:
        """What people read: "dpo", "answers of dpo", and of several training seeds which one."""
        what = self.stage or f"answers of {self.method}"
        return what if len(seeds) == 1 or self.is_shared else f"seed {seeds[self.seed].recipe.seed}: {what}"

    def log(self, seeds: Sequence[TrainingSeed]) -> Path:
        """The file of what it says."""
        what = self.stage or f"answers-{self.method}"
        return seeds[0].out / "logs" / f"seed-{seeds[self.seed].recipe.seed}-{what}.log"

    def work(self, seeds: Sequence[TrainingSeed]) -> None:
        """Does it; what is done already is kept."""
        seed = seeds[self.seed]
        if self.stage is not None:
            seed.train(seed.stages[self.stage])
        elif not self.is_shared:
            seed.evaluate(self.method, seed.models()[self.method])
        else:
            evaluate_shared(seeds, self.method)


def tasks_of(seeds: Sequence[TrainingSeed]) -> list[Task]:
    """Everything that a study does, in the order in which it is begun where several could be: stages first, those
    that most others wait for before the rest, since an evaluation holds nothing up."""
    tasks, first = [], asked_first(seeds[0].recipe)
    for place, seed in enumerate(seeds):
        waited_for = {name: _followers(seed, name) for name in seed.stages}
        ordered = sorted(seed.stages.values(), key=lambda stage: -waited_for[stage.name])
        tasks += [Task(place, stage.name, stage.method, tuple(seed.waits_for(stage))) for stage in ordered]
    tasks += [Task(0, None, first, ())] if first is not None else []
    for place, seed in enumerate(seeds):
        last = last_stages(seed.stages.values())
        tasks += [Task(place, None, name, (last[name],), first) for name in seed.models() if name != BASE]
    return tasks + [Task(0, None, name, (), first) for name in shared_models(seeds[0].recipe) if name != first]


def _followers(seed: TrainingSeed, name: str) -> int:
    """The longest row of stages that each wait for the one before, after this one."""
    after = [stage.name for stage in seed.stages.values() if name in seed.waits_for(stage)]
    return max((1 + _followers(seed, other) for other in after), default=0)
