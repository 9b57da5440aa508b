"""When a study's stages and evaluations would end on several machines: the same order as study/workers.py takes.

Each machine does one task at a time. More of them help until the longest row of tasks that wait for each other, the
critical path, is all that is left.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.data.splits import DataSettings, Splits
from trimtab.recipe import Recipe
from trimtab.study.graph import Task, tasks_of
from trimtab.study.seeds import recipe_of_seed
from trimtab.study.training_seed import TrainingSeed

if TYPE_CHECKING:
    from trimtab.plan.estimate import Plan


@dataclass(frozen=True)
class Schedule:
    """On so many machines. seconds: until the last task ends; begins: of each task, when; busy: the share of all
    machines' time that is worked in."""

    machines: int
    seconds: float
    begins: dict[Task, float]
    busy: float


def schedule(tasks: Sequence[Task], seconds: Mapping[Task, float], machines: int) -> Schedule:
    """Greedy, as a study is run: whenever a machine is free, it takes the first task that may begin."""
    waiting, done, begins = list(tasks), set[Task](), dict[Task, float]()
    running: list[tuple[float, int, Task]] = []
    now = 0.0
    while waiting or running:
        for task in [t for t in waiting if t.may_begin(done)][: machines - len(running)]:
            waiting.remove(task)
            begins[task] = now
            heapq.heappush(running, (now + seconds[task], len(begins), task))
        if not running:
            raise ValueError("tasks wait for what nobody does")
        now, _, task = heapq.heappop(running)
        done.add(task)
    worked = sum(seconds[task] for task in tasks)
    return Schedule(machines, now, begins, worked / (now * machines) if now else 1.0)


def critical_path(tasks: Sequence[Task], seconds: Mapping[Task, float]) -> tuple[list[Task], float]:
    """The row of tasks, each waiting for the one before, that takes longest; and how long."""
    plan = schedule(tasks, seconds, len(tasks))
    ends = {task: begin + seconds[task] for task, begin in plan.begins.items()}
    last = max(ends, key=lambda task: ends[task])
    path = [last]
    while plan.begins[path[0]] > 0:
        begin = plan.begins[path[0]]
        path.insert(0, next(task for task, end in ends.items() if end == begin and _waits(path[0], task)))
    return path, plan.seconds


def _waits(task: Task, other: Task) -> bool:
    """Whether a task waits for this one."""
    trained = other.stage in task.waits_for and other.seed == task.seed and other.stage is not None
    return trained or (other.is_shared and other.method == task.after)


def planned_seeds(recipe: Recipe, count: int) -> list[TrainingSeed]:
    """So many training seeds of a study that is not run: what there is to do, without rows."""
    seeds = [recipe.seed + i for i in range(count)]
    rows, nothing = DataSettings(train="unread"), Splits([])
    return [
        TrainingSeed(recipe_of_seed(recipe, seed), rows, nothing, Path("planned"), None, first_seed=seeds[0])
        for seed in seeds
    ]


def planned_tasks(recipe: Recipe, plan: Plan, seeds: int) -> tuple[list[Task], dict[Task, float]]:
    """Every task of a study with so many training seeds, and the seconds that the plan of one gives it. Evaluations
    share theirs evenly."""
    tasks = tasks_of(planned_seeds(recipe, seeds))
    trained = {stage.work.name: sum(stage.seconds.values()) for stage in plan.stages}
    asked = [task for task in tasks if task.stage is None and task.seed == 0]
    each = (plan.evaluation_seconds or 0.0) / max(1, len(asked))
    return tasks, {task: each if task.stage is None else trained[task.stage] for task in tasks}


def doubling(most: int) -> list[int]:
    """1, 2, 4, … and `most`."""
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == most else [*sizes, most]
