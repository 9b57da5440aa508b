"""A study's stages and evaluations in several processes, each when what it waits for is done.

A process does with a stage what the study itself would do. Afterwards the study goes through all of them as ever
and finds them done: what it gathers, reports and refuses is the same for any number of processes.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from trimtab.devices import on_cpu
from trimtab.errors import TrimtabError
from trimtab.notices import keep_said, say, unsaid
from trimtab.stopping import is_first_process
from trimtab.study.board import Board
from trimtab.study.crew import Crew, Died, Processes
from trimtab.study.graph import Task, tasks_of
from trimtab.study.training_seed import TrainingSeed
from trimtab.study.worker import run_of

MOST = 4
"""Processes that are started unasked: seldom can more stages be worked on at once, and each takes a GiB."""
TRIES = 3
"""How often a task is begun whose process dies."""
GLANCE = 0.5
"""Seconds between two looks at what the tasks say."""


def workers_for(seeds: Sequence[TrainingSeed], asked: int | None, gpus: Sequence[str] = ()) -> int:
    """How many processes a study is shared among. asked: None for as many as are worth it: one for each of the
    GPUs that are named, or of a tiny model one for each thread."""
    if not is_first_process() or "WORLD_SIZE" in os.environ:
        return 1  # of a launcher's processes each does its part of every stage
    if asked is None:
        asked = len(gpus) or (min(MOST, torch.get_num_threads()) if on_cpu() and seeds[0].is_tiny else 1)
    return min(asked, len(tasks_of(seeds)))


def visible_gpus() -> list[str]:
    """What CUDA calls the GPUs that this process sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def check_gpus(gpus: Sequence[str]) -> None:
    """TrimtabError where one of these is none that this process sees."""
    seen = visible_gpus() if gpus else []
    missing = [gpu for gpu in gpus if gpu not in seen and (gpu.isdecimal() or not seen)]
    if missing:
        there = f"it sees {', '.join(seen)}" if seen else "it sees none"
        raise TrimtabError(f"--gpus {','.join(gpus)}: CUDA has no GPU {', '.join(missing)} here; {there}.")


def check_ray() -> None:
    """TrimtabError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise TrimtabError("--ray: Ray is not installed: pip install 'trimtab[ray]'")


@contextmanager
def work_ahead(
    seeds: Sequence[TrainingSeed], workers: int | None, gpus: Sequence[str] = (), ray: str | None = None
) -> Iterator[None]:
    """Does in several processes what the study does inside, where that is worth it; inside, little is said then.

    workers: how many processes; None: as many as are worth it. gpus: those that the processes are pinned to, in
    turn; none: all that there are. ray: the address of a Ray cluster, whose machines do it instead. TrimtabError of
    the first task that failed, when all that do not wait for it are done.
    """
    if ray is not None and not _all_done(seeds):
        from trimtab.study.ray_crew import RayCrew

        resources = seeds[0].recipe.resources
        work_through(seeds, RayCrew(run_of(seeds, resources.cpus), ray, resources))
        with unsaid():
            yield
        return
    count = workers_for(seeds, workers, gpus)
    if (count == 1 and not gpus) or _all_done(seeds):
        yield
        return
    threads = max(1, torch.get_num_threads() // count)
    say(f"{count} processes of {threads} thread{'s' * (threads > 1)} share the stages and evaluations")
    work_through(seeds, Processes(run_of(seeds, threads), count, gpus or visible_gpus()))
    with unsaid():
        yield


def _all_done(seeds: Sequence[TrainingSeed]) -> bool:
    folders = [seed.folder / "stages" / name / "done.json" for seed in seeds for name in seed.stages]
    return all(folder.is_file() for folder in folders)


def work_through(seeds: Sequence[TrainingSeed], crew: Crew) -> None:
    """Has a crew do everything. A task whose process died is begun again, TRIES times in all; a dead end is not.

    TrimtabError of the first task that failed, when all that do not wait for it are done.
    """
    waiting = tasks_of(seeds)
    done, running = set[Task](), set[Task]()
    begun: Counter[Task] = Counter()
    failed: list[TrimtabError] = []
    with Board(len(waiting)) as board:
        try:
            while True:
                for task in [t for t in waiting if t.may_begin(done)]:
                    if crew.is_free():
                        waiting.remove(task)
                        running.add(task)
                        begun[task] += 1
                        crew.begin(task)
                        board.begun(task.title(seeds), task.log(seeds))
                if not running:
                    break
                for task, outcome in crew.ended(GLANCE):
                    running.remove(task)
                    if isinstance(outcome, Died) and begun[task] < TRIES:
                        board.ended(task.title(seeds), f"its process was {outcome.how}; it goes on in another one")
                        waiting.insert(0, task)
                    elif isinstance(outcome, Died | TrimtabError):
                        board.ended(task.title(seeds), "failed")
                        failed.append(_failure(task, outcome, seeds))
                    else:
                        board.ended(task.title(seeds))
                        keep_said(outcome)
                        done.add(task)
                board.look()
        finally:
            crew.leave()
    if failed:
        raise failed[0]


def _failure(task: Task, outcome: Died | TrimtabError, seeds: Sequence[TrainingSeed]) -> TrimtabError:
    """What the study says of a task that failed."""
    if isinstance(outcome, TrimtabError):
        return outcome
    return TrimtabError(
        f"{task.title(seeds)}: its process was {outcome.how}, {TRIES} times, as systems do that run out of memory "
        f"({task.log(seeds)}). The same command goes on; with --workers 1 it needs less."
    )
