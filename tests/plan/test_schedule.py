"""A study on several machines, by hand: when each task begins, what the critical path is, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.test_workers import recipe
from trimtab.data.parsing import parse
from trimtab.plan.schedule import critical_path, doubling, planned_seeds, schedule
from trimtab.plan.tables import machines_table
from trimtab.recipe import Recipe
from trimtab.study.graph import Task, tasks_of

SECONDS = {"sft": 30.0, "reward": 20.0, "dpo": 40.0, "grpo": 60.0}


def seeds_of(count: int, **changes: Any) -> Any:
    return planned_seeds(parse(Recipe, recipe(Path("m"), **changes), "test"), count)


def seconds_of(tasks: list[Task]) -> dict[Task, float]:
    return {task: SECONDS[task.stage] if task.stage else 10.0 for task in tasks}


def test_one_seed_by_hand() -> None:
    """sft 30 → reward 20 → grpo 60 → its answers 10 is the critical path: 120. All work is 190."""
    seeds = seeds_of(1)
    tasks = tasks_of(seeds)
    seconds = seconds_of(tasks)
    assert sum(seconds.values()) == 190
    alone = schedule(tasks, seconds, 1)
    assert (alone.seconds, alone.busy) == (190, 1.0)
    two = schedule(tasks, seconds, 2)
    begins = {task.title(seeds): begin for task, begin in two.begins.items()}
    # The other machine measures the base while SFT is trained, and waits for its end from 10 to 30.
    assert begins == {
        "sft": 0, "answers of base": 0, "reward": 30, "dpo": 30, "grpo": 50, "answers of sft": 70,
        "answers of dpo": 80, "answers of grpo": 110,
    }  # fmt: skip
    assert two.seconds == 120
    assert two.busy == pytest.approx(190 / 240)
    path, longest = critical_path(tasks, seconds)
    assert [task.title(seeds) for task in path] == ["sft", "reward", "grpo", "answers of grpo"]
    assert longest == 120
    assert schedule(tasks, seconds, 64).seconds == 120


def test_the_table_says_what_it_costs() -> None:
    seeds = seeds_of(2)
    tasks = tasks_of(seeds)
    table = machines_table(tasks, seconds_of(tasks), 6, seeds, 36.0)
    assert [row[0] for row in table.rows] == ["1", "2", "4", "6"]
    assert table.header[-1] == "Cost"
    assert table.rows[0][1:] == ["6.2 min", "1.00", "100", "0.1", "3.70"]  # 370 s
    assert table.rows[-1][5] == f"{6 * 120 / 3600 * 36:.2f}"
    assert table.notes[0] == (
        "No number of machines is faster than 2.0 min: seed 0: sft → seed 0: reward → seed 0: grpo → "
        "seed 0: answers of grpo."
    )
    assert doubling(1) == [1]
    assert doubling(8) == [1, 2, 4, 8]


@given(st.lists(st.floats(0.1, 100), min_size=16, max_size=16), st.integers(1, 9))
def test_bounds_that_hold_for_any_times(times: list[float], machines: int) -> None:
    """Never faster than the critical path or than the work shared out evenly; Graham's bound from above."""
    seeds = seeds_of(2)
    tasks = tasks_of(seeds)
    seconds = dict(zip(tasks, times, strict=False))
    assert len(seconds) == len(tasks)
    made, (_, longest) = schedule(tasks, seconds, machines), critical_path(tasks, seconds)
    work = sum(seconds.values())
    assert made.seconds >= max(longest, work / machines) - 1e-9
    assert made.seconds <= work / machines + longest * (machines - 1) / machines + 1e-9
    for task, begin in made.begins.items():
        for other in tasks:
            if other.stage and other.stage in task.waits_for and other.seed == task.seed:
                assert begin >= made.begins[other] + seconds[other] - 1e-9
