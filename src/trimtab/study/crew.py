"""Who does a study's tasks: processes of this machine, each of which may die without the others.

Another crew (of a cluster) answers the same four questions.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.study.graph import Task
from trimtab.study.worker import Run, serve


@dataclass(frozen=True)
class Died:
    """Whoever did a task is gone, and said nothing of it. how: "killed by SIGKILL"."""

    how: str


Outcome = JsonObject | TrimtabError | Died
"""A task's warnings by their subjects, the dead end that it found, or a death."""


class Crew(Protocol):
    """Does tasks, several at a time."""

    def is_free(self) -> bool:
        """Whether it can begin another task now."""
        ...

    def begin(self, task: Task) -> None:
        """Begins a task."""
        ...

    def ended(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Waits until a task has ended, for so long at most. Returns those that have."""
        ...

    def leave(self) -> None:
        """Whoever still works is asked to stop where it can go on, and waited for."""
        ...


class Slot:
    """One process at a time, with its orders. It is begun with its first task, and again after it died."""

    def __init__(self, run: Run, gpu: str | None) -> None:
        self.run, self.gpu = run, gpu
        self.task: Task | None = None
        self.process: SpawnProcess | None = None
        self.orders: Connection | None = None

    def begin(self, task: Task) -> None:
        """Tells the process of a task."""
        self.task = task
        if self.process is None or not self.process.is_alive():
            self._start()
        assert self.orders is not None
        try:
            self.orders.send(task)
        except OSError:  # it died since; `answer` says so
            return

    def _start(self) -> None:
        self.close()
        context = get_context("spawn")
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.run, self.gpu), name="trimtab task")
        self.process.start()
        theirs.close()

    def answer(self) -> Outcome | None:
        """What its task came to; None while it goes on."""
        assert self.orders is not None
        assert self.process is not None
        with suppress(EOFError, OSError):
            if self.orders.poll():
                outcome: Outcome = self.orders.recv()
                return outcome
            if self.process.is_alive():
                return None
        self.process.join()
        return Died(_how(self.process.exitcode))

    def close(self) -> None:
        """Ends the process: at once where it has no task, else where it can go on."""
        if self.process is not None and self.process.is_alive() and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)

    def join(self) -> None:
        """Waits for the end of a process that was asked to end."""
        if self.process is not None:
            self.process.join()
        if self.orders is not None:
            self.orders.close()


def _how(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


class Processes:
    """The crew of this machine. gpus: what CUDA calls the GPUs; each process sees one of them, in turn; none: all
    see all."""

    def __init__(self, run: Run, count: int, gpus: Sequence[str] = ()) -> None:
        self.slots = [Slot(run, gpus[i % len(gpus)] if gpus else None) for i in range(count)]

    def is_free(self) -> bool:
        """See Crew.is_free."""
        return any(slot.task is None for slot in self.slots)

    def begin(self, task: Task) -> None:
        """See Crew.begin. A process that has worked is taken before a new one is begun."""
        free = [slot for slot in self.slots if slot.task is None]
        min(free, key=lambda slot: slot.process is None).begin(task)

    def ended(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """See Crew.ended."""
        busy = [slot for slot in self.slots if slot.task is not None]
        signs: list[Connection | int] = []
        for slot in busy:
            assert slot.orders is not None
            assert slot.process is not None
            signs += [slot.orders, slot.process.sentinel]
        wait(signs, seconds)
        ends: list[tuple[Task, Outcome]] = []
        for slot in busy:
            task, outcome = slot.task, slot.answer()
            if outcome is not None and task is not None:
                slot.task = None
                ends.append((task, outcome))
        return ends

    def leave(self) -> None:
        """See Crew.leave."""
        for slot in self.slots:
            slot.close()
        for slot in self.slots:
            slot.join()
