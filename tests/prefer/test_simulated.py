"""Simulated people of benchmarks/votes.py: what is measured of them is what they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from trimtab.evaluation.answers import Answers
from trimtab.evaluation.people import people_of
from trimtab.readers.labels import labels_cast
from trimtab.readers.votes import labels_in

SPEC = importlib.util.spec_from_file_location("votes_benchmark", Path(__file__).parents[2] / "benchmarks/votes.py")
assert SPEC is not None
assert SPEC.loader is not None
benchmark = sys.modules["votes_benchmark"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


def test_what_is_measured_of_simulated_people_is_what_they_are() -> None:
    """Three of known accuracy, who lean to the left: bias, self-agreement, agreement and the corrected win rate lie
    within their intervals, which are narrow; ties are as many as chance would have drawn."""
    persons = [benchmark.Person(name, 0.9, 0.2) for name in ("ann", "bob", "cat")]
    rng = np.random.default_rng(5)
    world = benchmark.World(rng)
    outputs = world.outputs()
    labels = labels_in(labels_cast(benchmark.cast(world, persons, 300, rng)), "votes", outputs)
    assert outputs.opponent is not None
    people = people_of(labels, {"a": [Answers(outputs.fixed[0], outputs.opponent)]}, Answers(outputs.opponent), [])
    voting, [number] = people.voting, people.numbers
    assert voting is not None
    measured = [
        (voting.left, benchmark.left_share(persons)), (voting.itself, benchmark.again_share(persons)),
        (number.corrected, benchmark.people_rate(persons)),
        *((voter.others, benchmark.agreement(persons[0])) for voter in voting.persons),
    ]  # fmt: skip
    for estimate, truth in measured:
        assert estimate is not None
        assert estimate.ci95 is not None
        assert estimate.ci95[0] <= truth <= estimate.ci95[1]
        assert estimate.ci95[1] - estimate.ci95[0] < 0.3
    assert people.ties == pytest.approx(450 * world.same.sum() / (~world.same).sum(), abs=1)
