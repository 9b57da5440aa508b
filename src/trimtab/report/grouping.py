"""Warnings and sentences of the verdict, by kind: the same news of several methods is one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.catalogue import CATALOGUE, family, label
from trimtab.evaluation.people_words import ALONE, CORRECTED
from trimtab.evaluation.results import Results

HEAD = "MOST SCORES ARE MISSING: "
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Subject:
    """Whom a warning is about. method: its family. said: as the warning calls it, with its seed where it says one.
    rest: what the warning says of it. head: what stands before the name."""

    method: str
    said: str
    rest: str
    head: str = ""


def subject_of(warning: str, results: Results) -> Subject | None:
    """The method that a warning begins with, by its name, label or stage; None where it is about the study."""
    names = {*CATALOGUE, *results.methods, *results.curves}
    called = {text: family(name) for name in names for text in (name, label(name))}
    head = HEAD if warning.startswith(HEAD) else ""
    text = warning.removeprefix(HEAD)
    for name in sorted(called, key=len, reverse=True):
        found = re.match(
            rf"({re.escape(name)}(?:-\d+)?(?:, seed \d+)?)(:| amplifies | has a score )", text, re.DOTALL
        )
        if found:
            return Subject(called[name], found[1], text[len(found[1]) :], head)
    return None


@dataclass(frozen=True)
class Grouped:
    """Warnings of one kind. who: those that it is about, "" for the study."""

    who: str
    text: str


def grouped_warnings(results: Results) -> list[Grouped]:
    """In the order of the first of each kind. Of several methods, numbers that differ stand side by side, in the
    order of the methods."""
    kinds: dict[str, list[Subject]] = {}
    for warning in results.warnings:
        subject = subject_of(warning, results) or Subject("", "", warning)
        kind = subject.head + NUMBER.sub("#", subject.rest) if subject.said else warning
        if subject not in kinds.setdefault(kind, []):
            kinds[kind].append(subject)
    return [
        Grouped(of_kind[0].head + " / ".join(one.said for one in of_kind), _side_by_side([s.rest for s in of_kind]))
        for of_kind in kinds.values()
    ]


def _side_by_side(texts: Sequence[str]) -> str:
    """One text for several that differ in numbers alone."""
    numbers = [NUMBER.findall(text) for text in texts]
    slots = (slot[0] if len(set(slot)) == 1 else " / ".join(slot) for slot in zip(*numbers, strict=True))
    return NUMBER.sub(lambda _: next(slots), texts[0])


@dataclass(frozen=True)
class Sentences:
    """Of the verdict. open: whether they are shown before somebody opens them."""

    title: str
    sentences: Sequence[str]
    open: bool = False


OTHERS = "Lengths and rewards"
PEOPLE = "By people"


def grouped_verdict(results: Results) -> list[Sentences]:
    """The sentences after the first, by what they set the methods beside. Open are those that set the last trained
    beside what they started from, and people's."""
    groups: dict[str, list[str]] = {}
    for sentence in results.verdict[1:]:
        groups.setdefault(_beside(sentence, results), []).append(sentence)
    last = [title for title in groups if title not in (OTHERS, PEOPLE) or len(groups) == 1][-1:]
    return [Sentences(title, sentences, title in [*last, PEOPLE]) for title, sentences in groups.items()]


def _beside(sentence: str, results: Results) -> str:
    opponent = results.opponent or "the opponent"
    if CORRECTED in sentence or ALONE in sentence:
        return PEOPLE
    for name in results.methods:
        if not sentence.startswith(label(name)):
            continue
        rest = sentence.removeprefix(label(name))
        if name == results.opponent_method and rest.startswith(" is the opponent itself"):
            return f"Against {opponent}"
        if re.match(rf" (?:against|beats|loses to|cannot be told apart from) {re.escape(opponent)}:", rest):
            return f"Against {opponent}"
        for other in results.methods:
            if rest.startswith(f" against {label(other)}: ") and "mean excess over" not in rest:
                return f"Against {label(other)}"
    return OTHERS
