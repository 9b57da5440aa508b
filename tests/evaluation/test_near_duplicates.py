"""Prompts that are nearly the same: by every pair, by hand, and what a comparison makes of them."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.outputs_of import make
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.evaluation.near_duplicates import near_duplicates, told_of
from trimtab.evaluation.results import Results
from trimtab.evaluation.row_columns import cluster_names, takes_near_duplicates
from trimtab.evaluation.summary import About, StudyOutputs, summarise

TASK = "You are given a sentence in English. Translate the sentence to {}, and keep its tone and order of words."


def by_every_pair(prompts: list[str]) -> list[set[int]]:
    """Groups from the definition: all pairs looked at, merged until nothing changes."""

    def runs(prompt: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", prompt.casefold())
        return (
            {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
            if len(words) > 2
            else {tuple(words) or (prompt,)}
        )

    groups = [{i} for i in range(len(prompts))]
    for i, j in itertools.combinations(range(len(prompts)), 2):
        a, b = runs(prompts[i]), runs(prompts[j])
        if len(a & b) / len(a | b) >= 0.7:
            one, other = (next(group for group in groups if k in group) for k in (i, j))
            if one is not other:
                groups.remove(other)
                one |= other
    return sorted(groups, key=min)


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=14).map(" ".join), min_size=1, max_size=12))
def test_no_pair_is_missed_and_none_is_made_up(prompts: list[str]) -> None:
    found = near_duplicates(prompts)
    groups = [{i for i, number in enumerate(found) if number == k} for k in range(max(found) + 1)]
    assert groups == by_every_pair(prompts)


def test_the_same_task_with_another_word_is_one_group() -> None:
    """20 words: 18 runs of which a changed word is in 3, so 15 of 21 are shared: 0.71."""
    prompts = [TASK.format("French"), "What is the capital of France?", TASK.format("Finnish").upper(), "", "?"]
    assert near_duplicates(prompts).tolist() == [0, 1, 0, 2, 3]
    assert "2 test prompts are nearly the same as another (groups: 1)" in str(
        told_of(near_duplicates(prompts), prompts)
    )
    others = [f"This is number {i} of many prompts, {i + 1} comes next." for i in range(0, 400, 3)]
    assert told_of(near_duplicates(prompts + others), prompts + others) is None, "2 of 139 are too few for a word"
    assert told_of(near_duplicates(["a", "a"]), ["a", "a"]) is None, "of the same prompt intervals know already"


def compared(prompts: list[str], near: bool) -> Results:
    method, opponent = make("dpo", [2.0, 0.0] * 4), make("them", [1.0] * 8)
    for outputs in (method, opponent):
        for generation, prompt in zip(outputs.generations, prompts, strict=True):
            generation.prompt = prompt
    outputs = StudyOutputs({}, [method], opponent, near_duplicates=near)
    return summarise(outputs, About(name="n"))


def test_intervals_take_a_group_as_one_where_it_is_asked_for() -> None:
    """Eight prompts in four pairs: four units, and a wider interval than of eight; else a word."""
    prompts = [
        " ".join([f"{kind}{i}" for i in range(12)]) + f" in {language}"
        for kind in ("noun", "verb", "town", "name")
        for language in ("French", "Finnish")
    ]
    units, told = {}, {}
    for near in (False, True):
        found = compared(prompts, near)
        basis = found.methods["dpo"].estimates["win_rate"].basis
        assert basis is not None
        units[near] = (basis.unit, basis.units)
        told[near] = any("nearly the same" in line for line in found.warnings)
    assert units == {False: ("prompts", 8), True: ("clusters of rows", 4)}
    assert told == {False: True, True: False}


def test_without_the_prompts_it_cannot_be_told() -> None:
    with pytest.raises(TrimtabError, match="near-duplicates can't be told"):
        compared([""] * 8, near=True)


def test_a_column_of_that_name_has_the_first_word() -> None:
    plain = [Record("a", ("b",))]
    assert takes_near_duplicates(plain, "near_duplicates")
    assert not takes_near_duplicates(plain, None)
    assert cluster_names(plain, "near_duplicates") == []
    own = [Record("a", ("b",), columns={"near_duplicates": 3})]
    assert not takes_near_duplicates(own, "near_duplicates")
    assert cluster_names(own, "near_duplicates") == ["value 3"]
