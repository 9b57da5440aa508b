"""Prompts: they can be read back exactly, and held-out tasks stay out of training."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.sandbox import generate
from trimtab.sandbox.prompts import (
    HELD_OUT_WORDINGS,
    KINDS,
    TEMPLATES,
    Split,
    Task,
    draw_task,
    parse_prompt,
)
from trimtab.sandbox.world import NEED, PHRASES, WORLD

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@settings(max_examples=300, deadline=None)
@given(st.integers(), st.sampled_from(SPLITS))
def test_parse_prompt_inverts_the_prompt(seed: int, split: Split) -> None:
    task = draw_task(split, random.Random(seed))
    assert parse_prompt(task.prompt) == task
    assert task.split == split


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_other_text_is_no_task(text: str) -> None:
    assert parse_prompt(text) is None


def test_a_changed_prompt_is_no_task_or_another() -> None:
    task = draw_task("train", random.Random(3))
    for changed in (task.prompt + " ", task.prompt[:-1], task.prompt.lower(), "Please. " + task.prompt):
        assert parse_prompt(changed) != task


def test_right_answer_by_hand() -> None:
    task = parse_prompt("I want to buy a house in Lisbon or London.")
    assert task is not None
    assert (task.kind, task.entities, task.needs) == ("compare", ("Lisbon", "London"), ("housing",))
    assert task.answer == {"Lisbon"}
    assert task.facts == (("Lisbon", "city.rent"), ("London", "city.rent"))


def test_the_split_depends_on_what_is_asked_only() -> None:
    rng = random.Random(0)
    for _ in range(300):
        t = draw_task("test", rng)
        if t.kind == "explain":
            continue
        entities = tuple(rng.sample(t.entities, len(t.entities)))
        other = Task(t.kind, t.domain, entities, t.needs[::-1], 0, (0,) * len(t.needs))
        assert other.split == "test"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_tasks_never_occur_in_training(seed: int) -> None:
    trained = [r.prompt for r in generate.pretraining_records(3000, seed, generate.BASE_MIXTURE)]
    trained += [r.prompt for r in generate.preference_data("train", 500, seed)]
    keys = set()
    for prompt in trained:
        assert isinstance(prompt, str)
        task = parse_prompt(prompt)
        assert task is not None
        assert task.split == "train"
        assert task.template < len(TEMPLATES[task.kind]) - HELD_OUT_WORDINGS
        keys.add(task.key)
    for prompt in generate.test_prompts(1000, seed):
        held_out = parse_prompt(prompt)
        assert held_out is not None
        assert held_out.key not in keys
    validation = [r.prompt for r in generate.preference_data("validation", 200, seed)]
    assert all(isinstance(p, str) and parse_prompt(p).key not in keys for p in validation)  # type: ignore[union-attr]


def test_enough_distinct_tasks() -> None:
    assert len(set(generate.test_prompts(3000, 0))) == 3000
    # Capture and recapture: two draws of n from N distinct tasks share about n²/N of them.
    draws = [{draw_task("train", random.Random(seed * 10_000 + i)).key for i in range(3000)} for seed in (1, 2)]
    shared = len(draws[0] & draws[1])
    assert shared < len(draws[0]) * len(draws[1]) / 50_000 * 5


def test_every_kind_and_wording_occurs() -> None:
    rng = random.Random(0)
    seen = {(t.kind, t.template) for t in (draw_task("test", rng) for _ in range(3000))}
    assert seen == {(k, i) for k in KINDS for i in range(len(TEMPLATES[k]))}


def test_world_is_complete_and_unambiguous() -> None:
    assert 600 <= sum(len(levels) for entities in WORLD.values() for levels in entities.values()) <= 800
    for domain in WORLD:
        phrases = [p for key, three in PHRASES.items() if key.startswith(domain) for at in three for p in at]
        assert len(phrases) == len(set(phrases))
    for need in NEED.values():
        assert need.wanted in (0, 2)
        assert len(need.goals) + len(need.nouns) >= 4
