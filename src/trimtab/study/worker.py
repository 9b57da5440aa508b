"""A process that does a study's tasks as it is told, one after the other. Each task's log has what it said."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from trimtab.data.splits import DataSettings, Splits
from trimtab.errors import TrimtabError, first_line
from trimtab.files import make_folder
from trimtab.json_types import JsonObject
from trimtab.notices import collected, current_warnings, hush, is_quiet, speaking_of
from trimtab.recipe import Recipe
from trimtab.stopping import Stopped, listening
from trimtab.study.graph import Task
from trimtab.study.sources import make_judge
from trimtab.study.training_seed import TrainingSeed
from trimtab.training.changed import accepting_changed_reward, accepts_changed_reward

LOOK = 0.2
"""Seconds between two looks at whether the study's own process still lives."""


class Run(NamedTuple):
    """What a process is told when it begins. recipes: one for each training seed, as in a file. data to answers: as
    a TrainingSeed has them. parent: the study's own process. place: its working folder, where relative names of
    files start."""

    recipes: list[JsonObject]
    data: DataSettings
    splits: Splits
    out: Path
    sampled: tuple[DataSettings, Splits] | None
    of_reward: tuple[DataSettings, Splits] | None
    first_seed: int | None
    shared: Path | None
    untouched: frozenset[str]
    answers: str
    threads: int
    quiet: bool
    debug: bool
    accepts_changed_reward: bool
    parent: int
    place: str


def run_of(seeds: Sequence[TrainingSeed], threads: int) -> Run:
    """What processes of so many threads are told of these training seeds, which share all but their recipes."""
    recipes, first = [seed.recipe.model_dump(exclude_unset=True) for seed in seeds], seeds[0]
    debug = bool(os.environ.get("TRIMTAB_DEBUG"))
    return Run(
        recipes, first.data, first.splits, first.out, first.sampled, first.of_reward, first.first_seed,
        first.shared, first.untouched, first.answers, threads, is_quiet(), debug, accepts_changed_reward(),
        os.getpid(), os.getcwd(),
    )  # fmt: skip


def seeds_of_run(run: Run) -> list[TrainingSeed]:
    """The training seeds that `run_of` was given."""
    recipes = [Recipe.model_validate(recipe) for recipe in run.recipes]
    judge = make_judge(recipes[0].judge, run.out)
    alike = (
        run.data, run.splits, run.out, judge, run.sampled, run.of_reward, run.first_seed, run.shared, run.untouched,
        run.answers,
    )  # fmt: skip
    return [TrainingSeed(recipe, *alike) for recipe in recipes]


def do(task: Task, seeds: Sequence[TrainingSeed], run: Run) -> JsonObject:
    """Does a task. Returns its warnings that no stage or evaluation has kept, by their subjects."""
    about = speaking_of(f"seed {seeds[task.seed].recipe.seed}") if len(seeds) > 1 else nullcontext()
    with listening(), accepting_changed_reward(run.accepts_changed_reward), about, collected():
        task.work(seeds)
        return current_warnings()


def sendable(error: Exception) -> TrimtabError:
    """An error as another process is told of it. Of one that is no dead end the traceback is said here."""
    if isinstance(error, TrimtabError):
        return TrimtabError(str(error))
    traceback.print_exc()
    return TrimtabError(f"{type(error).__name__}: {first_line(error)}")


@contextmanager
def logging_to(log: Path) -> Iterator[None]:
    """Inside, what this process and its libraries print goes to the end of a file."""
    make_folder(log.parent)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
        os.close(file)


def serve(orders: Connection, run: Run, gpu: str | None) -> None:
    """Does what it is ordered to until there are no more orders. Each answer is the task's warnings or its error.
    gpu: the only one that it sees; None: all."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before anything has looked at the GPUs
    hush(run.debug, run.quiet)
    torch.set_num_threads(run.threads)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # between two tasks nothing is lost
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))
    threading.Thread(target=_leave_with, args=(run.parent,), daemon=True).start()
    seeds: list[TrainingSeed] = []
    with suppress(EOFError):
        while True:
            task: Task = orders.recv()
            seeds = seeds or seeds_of_run(run)
            with logging_to(task.log(seeds)):
                answer = _answer(task, seeds, run)
            orders.send(answer)


def _answer(task: Task, seeds: Sequence[TrainingSeed], run: Run) -> JsonObject | TrimtabError:
    try:
        return do(task, seeds, run)
    except KeyboardInterrupt as stop:  # the study's own process says how it goes on
        sys.stderr.flush()
        os._exit(stop.exit_code if isinstance(stop, Stopped) else 130)
    except Exception as error:
        return sendable(error)


def _leave_with(parent: int) -> None:
    """A study that was killed leaves nobody behind who would write into its folder."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)
