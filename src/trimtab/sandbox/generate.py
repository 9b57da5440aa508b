"""The sandbox's data sets: preference pairs, test prompts and what the two starters are pretrained on.

All are functions of their arguments: the same seed gives the same data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from trimtab.data.records import Record
from trimtab.sandbox.annotator import annotate, draw_manner
from trimtab.sandbox.manners import Manner, write
from trimtab.sandbox.prompts import Split, Task, draw_task

# What the base model has read: everything, the long-winded most.
BASE_MIXTURE: dict[Manner, float] = {
    "direct": 0.06,
    "structured": 0.04,
    "padded": 0.24,
    "looping": 0.20,
    "meta_commentary": 0.20,
    "hedged": 0.08,
    "incomplete": 0.06,
    "wrong": 0.12,
}
# The opponent: mostly good, with some of everything else.
INSTRUCT_MIXTURE: dict[Manner, float] = {
    "direct": 0.36,
    "structured": 0.28,
    "padded": 0.09,
    "looping": 0.02,
    "meta_commentary": 0.04,
    "hedged": 0.09,
    "incomplete": 0.02,
    "wrong": 0.10,
}
# What the annotators see: between the two.
PREFERENCE_MIXTURE: dict[Manner, float] = {
    "direct": 0.22,
    "structured": 0.16,
    "padded": 0.12,
    "looping": 0.13,
    "meta_commentary": 0.13,
    "hedged": 0.09,
    "incomplete": 0.05,
    "wrong": 0.10,
}


def _distinct_tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Tasks of the split, none asked twice in any wording."""
    seen = set()
    misses = 0
    while misses < 10_000:
        task = draw_task(split, rng)
        misses = misses + 1 if task.key in seen else 0
        if not misses:
            seen.add(task.key)
            yield task
    raise ValueError(f"the {split} split has about {len(seen)} distinct tasks; ask for fewer")


def preference_data(split: Split, n: int, seed: int, *, with_gold: bool = False) -> list[Record]:
    """n preference pairs over distinct tasks of the split; `with_gold` gives them the annotator's gold scores."""
    rng = random.Random(f"preferences {split} {seed}")
    tasks = _distinct_tasks(split, rng)
    return [annotate(next(tasks), PREFERENCE_MIXTURE, rng, with_gold=with_gold) for _ in range(n)]


def test_prompts(n: int, seed: int) -> list[str]:
    """n prompts of the test split, over distinct tasks."""
    tasks = _distinct_tasks("test", random.Random(f"test prompts {seed}"))
    return [next(tasks).prompt for _ in range(n)]


test_prompts.__test__ = False  # type: ignore[attr-defined]  # its name is not a test's


def pretraining_records(n: int, seed: int, mixture: Mapping[Manner, float]) -> list[Record]:
    """n records of the training split with one completion each, in the manners of the mixture."""
    rng = random.Random(f"pretraining {seed}")
    records = []
    for _ in range(n):
        task = draw_task("train", rng)
        records.append(Record(task.prompt, (write(task, draw_manner(mixture, rng), rng),)))
    return records
