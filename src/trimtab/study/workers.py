"""A study's stages and evaluations in several processes, each when what it waits for is done.

A process does with a stage what the study itself would do. Afterwards the study goes through all of them as ever
and finds them done: what it gathers, reports and refuses is the same for any number of processes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

from trimtab.data.splits import DataSettings, Splits
from trimtab.devices import on_cpu
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.notices import current_warnings, hush, is_quiet, keep_said, say, speaking_of, unsaid
from trimtab.recipe import Recipe
from trimtab.stopping import Stopped, is_first_process, listening
from trimtab.study.sources import make_judge
from trimtab.study.stages import last_stages
from trimtab.study.training_seed import BASE, TrainingSeed, asked_first, evaluate_shared, shared_models
from trimtab.training.changed import accepting_changed_reward, accepts_changed_reward

MOST = 4
"""Processes that are started unasked: seldom can more stages be worked on at once, and each takes a GiB."""
KILLED = (
    "a process of the study was killed, as systems do that run out of memory. The same command goes on; with "
    "--workers 1 it needs less."
)
LOOK = 0.2
"""Seconds between two looks at whether the study's own process still lives."""


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


def workers_for(seeds: Sequence[TrainingSeed], asked: int | None) -> int:
    """How many processes a study is shared among. asked: None for as many as are worth it."""
    if not is_first_process() or "WORLD_SIZE" in os.environ:
        return 1  # of a launcher's processes each does its part of every stage
    if asked is None:
        asked = min(MOST, torch.get_num_threads()) if on_cpu() and seeds[0].is_tiny else 1
    return min(asked, len(tasks_of(seeds)))


@contextmanager
def work_ahead(seeds: Sequence[TrainingSeed], workers: int | None) -> Iterator[None]:
    """Does in several processes what the study does inside, where that is worth it; inside, little is said then.

    workers: how many processes; None: as many as are worth it. TrimtabError of the first task that failed, when
    all that do not wait for it are done.
    """
    count = workers_for(seeds, workers)
    if count == 1 or _all_done(seeds):
        yield
        return
    threads = max(1, torch.get_num_threads() // count)
    say(f"{count} processes of {threads} thread{'s' * (threads > 1)} share the stages and evaluations")
    _run(seeds, count, threads)
    with unsaid():
        yield


def _all_done(seeds: Sequence[TrainingSeed]) -> bool:
    folders = [seed.folder / "stages" / name / "done.json" for seed in seeds for name in seed.stages]
    return all(folder.is_file() for folder in folders)


def _run(seeds: Sequence[TrainingSeed], count: int, threads: int) -> None:
    waiting, done = tasks_of(seeds), set[Task]()
    running: dict[Future[JsonObject], Task] = {}
    failed: list[BaseException] = []
    others = active_children()
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (run_of(seeds, threads),))
    try:
        while True:
            for task in [t for t in waiting if t.may_begin(done)]:
                if len(running) < count:
                    waiting.remove(task)
                    running[pool.submit(_work, task)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                if error is None:
                    keep_said(future.result())
                    done.add(task)
                else:
                    failed.append(error)
    except BrokenProcessPool:  # one is gone, and with it the pool: by a future, or as the next task is handed over
        failed.append(TrimtabError(KILLED))
    finally:
        _end(pool, [process for process in active_children() if process not in others])
    if failed:
        raise failed[0]


def _end(pool: ProcessPoolExecutor, processes: Sequence[BaseProcess]) -> None:
    """Whatever still works of the pool's processes is asked to stop where it can go on, and waited for."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join()


# ---- in a process of its own


class Run(NamedTuple):
    """What a process is told when it begins. recipes: one for each training seed, as in a file. data to first_seed:
    as a TrainingSeed has them. parent: the study's own process."""

    recipes: list[JsonObject]
    data: DataSettings
    splits: Splits
    out: Path
    sampled: tuple[DataSettings, Splits] | None
    of_reward: tuple[DataSettings, Splits] | None
    first_seed: int | None
    threads: int
    quiet: bool
    debug: bool
    accepts_changed_reward: bool
    parent: int


def run_of(seeds: Sequence[TrainingSeed], threads: int) -> Run:
    """What processes of so many threads are told of these training seeds, which share all but their recipes."""
    recipes, first = [seed.recipe.model_dump(exclude_unset=True) for seed in seeds], seeds[0]
    debug = bool(os.environ.get("TRIMTAB_DEBUG"))
    return Run(
        recipes, first.data, first.splits, first.out, first.sampled, first.of_reward, first.first_seed,
        threads, is_quiet(), debug, accepts_changed_reward(), os.getpid(),
    )  # fmt: skip


def seeds_of_run(run: Run) -> list[TrainingSeed]:
    """The training seeds that `run_of` was given."""
    recipes = [Recipe.model_validate(recipe) for recipe in run.recipes]
    judge = make_judge(recipes[0].judge, run.out)
    shared = (run.data, run.splits, run.out, judge, run.sampled, run.of_reward, run.first_seed)
    return [TrainingSeed(recipe, *shared) for recipe in recipes]


_told: list[Run] = []
"""This process's, once it has begun."""


def _begin(run: Run) -> None:
    hush(run.debug, run.quiet)
    torch.set_num_threads(run.threads)
    _told.append(run)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # between two tasks nothing is lost
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))
    threading.Thread(target=_leave_with, args=(run.parent,), daemon=True).start()


@cache
def _seeds() -> list[TrainingSeed]:
    [run] = _told
    return seeds_of_run(run)


def _leave_with(parent: int) -> None:
    """A study that was killed leaves nobody behind who would write into its folder."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def _work(task: Task) -> JsonObject:
    """Does a task. Returns the warnings of this process that no stage or evaluation has kept, by their subjects."""
    [run], seeds = _told, _seeds()
    seed = seeds[task.seed]
    about = speaking_of(f"seed {seed.recipe.seed}") if len(seeds) > 1 else nullcontext()
    try:
        with listening(), accepting_changed_reward(run.accepts_changed_reward), about:
            if task.stage is not None:
                seed.train(seed.stages[task.stage])
            elif not task.is_shared:
                seed.evaluate(task.method, seed.models()[task.method])
            else:
                evaluate_shared(seeds, task.method)
    except KeyboardInterrupt as stop:  # the study's own process says how it goes on
        os._exit(stop.exit_code if isinstance(stop, Stopped) else 130)
    return current_warnings()
