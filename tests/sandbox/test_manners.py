"""Manners against the judge: the truth scores as it should, and rubbish never helps."""

from __future__ import annotations

import math
import random
import statistics
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.sandbox.judge import HIGHEST, LOWEST, GoldJudge, Judgement
from trimtab.sandbox.manners import MANNERS, Manner, write
from trimtab.sandbox.prompts import draw_task

JUDGE = GoldJudge()
TRUTHFUL: tuple[Manner, ...] = ("direct", "structured", "padded", "looping", "meta_commentary", "hedged")


@cache
def judgements(manner: Manner) -> list[Judgement]:
    rng = random.Random(11)
    tasks = [draw_task("test", rng) for _ in range(300)]
    return [JUDGE.judge(task.prompt, write(task, manner, rng)) for task in tasks]


def mean(manner: Manner) -> float:
    return statistics.mean(j.score for j in judgements(manner))


def test_truthful_manners_are_read_as_right_and_complete() -> None:
    for manner in TRUTHFUL:
        for found in judgements(manner):
            assert (found.correctness, found.coverage, found.wrong) == (1.0, 1.0, ()), manner


def test_order_of_the_manners() -> None:
    assert 0 <= mean("structured") - mean("direct") < 0.5
    for worse in ("padded", "hedged"):
        assert mean("direct") - mean(worse) > 1.5
    for worse in ("meta_commentary", "incomplete", "looping"):
        assert mean("padded") - mean(worse) > 0.5
    assert mean("wrong") < min(mean(m) for m in MANNERS if m != "wrong") - 1


def test_a_wrong_completion_never_reaches_a_right_one() -> None:
    assert max(j.score for j in judgements("wrong")) < min(j.score for j in judgements("direct")) - 1


def test_lengths() -> None:
    rng = random.Random(2)
    tasks = [draw_task("train", rng) for _ in range(300)]
    words = {m: statistics.mean(len(write(t, m, rng).split()) for t in tasks) for m in MANNERS}
    assert 15 <= words["direct"] <= 35
    assert words["direct"] < words["structured"] < 50
    assert all(50 <= words[m] <= 120 for m in ("padded", "looping"))


def test_position_says_nothing() -> None:
    """The entity that a direct completion names first is the right one about half of the time."""
    rng = random.Random(4)
    tasks = [t for t in (draw_task("train", rng) for _ in range(2000)) if t.kind == "compare"]
    asked_first = statistics.mean(t.entities[0] in t.answer for t in tasks)
    assert abs(asked_first - 0.5) < 4 * 0.5 / math.sqrt(len(tasks))


def test_same_seed_same_text() -> None:
    task = draw_task("train", random.Random(0))
    for manner in MANNERS:
        assert write(task, manner, random.Random(1)) == write(task, manner, random.Random(1))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400), st.integers(0, 50))
def test_any_text_has_a_finite_score(text: str, seed: int) -> None:
    task = draw_task("test", random.Random(seed))
    assert LOWEST <= JUDGE.judge(task.prompt, text).score <= HIGHEST


SALAD = (
    "Lisbon|London|Oslo|best|choose|not|is|has|low|high|rent|quiet|and|,|.|\n|-|for|because|better|than|"
    "both|winters|mild|I|am|sure|Confidence:|95%|the|other|it|fits|avoid"
)
WORDS = st.lists(
    st.sampled_from(SALAD.split("|")),
    max_size=25,
).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), WORDS), st.booleans(), st.integers(0, 200))
def test_rubbish_around_a_direct_answer_never_helps(rubbish: str, before: bool, seed: int) -> None:
    rng = random.Random(seed)
    task = draw_task("test", rng)
    plain = write(task, "direct", rng)
    text = f"{rubbish} {plain}" if before else f"{plain} {rubbish}"
    assert JUDGE.judge(task.prompt, text).score <= JUDGE.judge(task.prompt, plain).score + 1e-9
