"""A study's tasks on the machines of a Ray cluster.

Ray decides where a task runs, by the recipe's `resources`, and says when a worker or a machine is gone; the study
begins the task again elsewhere, as it does with processes of its own. The study's folder is on storage that all
machines share: everything that passes between them is in it. No two do the same task at once, since a task is held:
one whose machine was given up, but still works, keeps the next one waiting.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from trimtab.errors import TrimtabError, first_line
from trimtab.folder_lock import waiting_for
from trimtab.json_types import JsonObject
from trimtab.notices import hush, say
from trimtab.study.crew import Died, Outcome
from trimtab.study.graph import Task
from trimtab.study.worker import Run, do, logging_to, seeds_of_run, sendable
from trimtab.training.resources import ResourceSettings

if TYPE_CHECKING:
    from ray import ObjectRef

AHEAD = 256
"""Tasks that wait with Ray for room on a machine."""
PATIENCE = 15.0
"""Seconds that tasks are given to end where they can go on."""


class RayCrew:
    """See study/crew.py. address: of the cluster, auto for the one that this machine is of, local for one of this
    machine alone. TrimtabError where there is no such cluster."""

    def __init__(self, run: Run, address: str, resources: ResourceSettings) -> None:
        import ray  # an extra

        self.ray = ray
        where = {} if address == "local" else {"address": address}
        try:
            if not ray.is_initialized():
                ray.init(**where, log_to_driver=False, logging_level="error", include_dashboard=address == "local")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TrimtabError(f"--ray {address}: {first_line(error)}") from None
        say(f"Ray: {_cluster(ray)}")
        options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": 0}
        if resources.memory is not None:
            options["memory"] = int(resources.memory * 2**30)
        self.work = ray.remote(**options)(work_here)
        self.run = ray.put(run)
        self.running: dict[ObjectRef, Task] = {}

    def is_free(self) -> bool:
        """See Crew.is_free. Ray keeps tasks until a machine has room."""
        return len(self.running) < AHEAD

    def begin(self, task: Task) -> None:
        """See Crew.begin."""
        self.running[self.work.remote(self.run, task)] = task

    def ended(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """See Crew.ended."""
        ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        if not ready:
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        return [(self.running.pop(ref), self._outcome(ref)) for ref in ready]

    def _outcome(self, ref: ObjectRef) -> Outcome:
        errors = self.ray.exceptions
        try:
            outcome: Outcome = self.ray.get(ref)
        except errors.RayTaskError as error:  # what `work_here` did not catch
            return TrimtabError(f"{type(error.cause).__name__}: {first_line(error.cause)}")
        except errors.RayError as error:
            return Died(f"lost ({type(error).__name__})")
        return outcome

    def leave(self) -> None:
        """See Crew.leave."""
        for ref in self.running:
            with suppress(self.ray.exceptions.RayError, ValueError):
                self.ray.cancel(ref, force=False)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=PATIENCE)
        self.ray.shutdown()


def _cluster(ray: Any) -> str:
    """Machines, cores and GPUs, in words."""
    machines = sum(node["Alive"] for node in ray.nodes())
    there = ray.cluster_resources()
    parts = [f"{machines} machine{'s' * (machines > 1)}", f"{there.get('CPU', 0):g} cores"]
    return ", ".join(parts + ([f"{there['GPU']:g} GPUs"] if there.get("GPU") else []))


def work_here(run: Run, task: Task) -> JsonObject | TrimtabError:
    """Does a task on a machine of the cluster. Returns its warnings, or the dead end that it found."""
    import torch

    hush(run.debug, run.quiet)
    torch.set_num_threads(run.threads)
    os.chdir(run.place)
    seeds = seeds_of_run(run)
    log = task.log(seeds)
    with logging_to(log), waiting_for(log):
        try:
            return do(task, seeds, run)
        except Exception as error:
            return sendable(error)
