"""How long a study takes in two processes beside one, on the same threads in total; and whether `plan` foresees it.

    python benchmarks/parallel.py OUT [--recipe quickstart] [--seeds 0] [--set NAME=VALUE …]

The study runs twice into OUT: with one worker that has all threads, and with two that share them. results.json of
both must be the same, times aside. What `trimtab plan --machines` simulates is given the tasks' own times in the
second run, and held beside what the tasks together took there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

import torch

from trimtab.plan.schedule import schedule
from trimtab.recipe import load_recipe
from trimtab.study import workers as module
from trimtab.study.board import Board
from trimtab.study.graph import Task, tasks_of
from trimtab.study.run import run_study


class Timed(Board):
    """Writes down how long each task took, and all together."""

    seconds: ClassVar[dict[str, float]] = {}
    all_together: ClassVar[float] = 0.0

    def ended(self, title: str, how: str = "done") -> None:
        Timed.seconds[title] = self.clock() - self.rows[title].began
        super().ended(title, how)

    def __exit__(self, *words: object) -> None:
        Timed.all_together = self.clock() - self.started
        super().__exit__(*words)


def ran(recipe: Any, out: Path, seeds: list[int], workers: int) -> tuple[float, Any]:
    """The study's seconds, and its results without the times in them."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    run_study(recipe, out, seeds, workers)
    return time.monotonic() - began, json.loads((out / "results.json").read_text())


def without_times(value: Any) -> Any:
    """Numbers of seconds and dates left out."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(w in k for w in ("seconds", "date", "memory", "threads"))}
        return {k: without_times(v) for k, v in kept.items()}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    words = parser.parse_args()
    recipe, seeds = load_recipe(Path(words.recipe), words.set), [int(seed) for seed in words.seeds.split(",")]
    threads = torch.get_num_threads()
    alone, first = ran(recipe, words.out / "one", seeds, 1)
    torch.set_num_threads(threads)
    tasks: list[Task] = []
    titles: dict[Task, str] = {}

    def noting(trained: Any) -> list[Task]:
        tasks[:] = tasks_of(trained)
        titles.update({task: task.title(trained) for task in tasks})
        return list(tasks)

    module.Board, module.tasks_of = Timed, noting  # type: ignore[misc, assignment]
    together, second = ran(recipe, words.out / "two", seeds, 2)
    same = without_times(first) == without_times(second)
    print(f"{threads} threads in total; {len(seeds)} training seeds, {len(tasks)} tasks")
    print(f"one process {alone:.0f} s, two {together:.0f} s: {together / alone:.2f}; same results: {same}")
    simulated = schedule(tasks, {task: Timed.seconds[title] for task, title in titles.items()}, 2)
    print(
        f"tasks in two processes: {Timed.all_together:.0f} s, simulated {simulated.seconds:.0f} s "
        f"({simulated.seconds / Timed.all_together:.2f}), {simulated.busy:.0%} busy"
    )


if __name__ == "__main__":
    main()
