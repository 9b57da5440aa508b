"""Writes completions for a task in one of several manners, from one that helps to ones that do not.

A writer holds beliefs about the facts; all manners but "wrong" believe the truth. What is said comes
from the beliefs, so that a wrong answer has the same form as a right one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, get_args

from trimtab.sandbox import wordings as w
from trimtab.sandbox.prompts import Task
from trimtab.sandbox.world import (
    ATTRIBUTE,
    NEED,
    conjugated,
    goodness,
    is_plural,
    level,
    named,
    sentence_case,
)

Manner = Literal["direct", "structured", "padded", "looping", "meta_commentary", "hedged", "wrong", "incomplete"]
MANNERS: tuple[Manner, ...] = get_args(Manner)


def write(task: Task, manner: Manner, rng: random.Random) -> str:
    """A completion of the task in the manner; the same random state writes the same text."""
    writer = Writer(task, rng)
    return {
        "direct": writer.direct,
        "structured": writer.structured,
        "padded": writer.padded,
        "looping": writer.looping,
        "meta_commentary": writer.meta_commentary,
        "hedged": writer.hedged,
        "wrong": writer.wrong,
        "incomplete": writer.incomplete,
    }[manner]()


class Writer:
    """One completion in the making: the task, the beliefs, and the chosen entities."""

    def __init__(self, task: Task, rng: random.Random) -> None:
        self.task = task
        self.rng = rng
        self.beliefs = {fact: level(task.domain, *fact) for fact in task.facts}
        self.chosen = [e for e in self._order() if e in task.answer]

    def _order(self) -> list[str]:
        """The entities in random order: being named first must not mean anything."""
        return self.rng.sample(self.task.entities, len(self.task.entities))

    def _name(self, entity: str) -> str:
        return named(self.task.domain, entity)

    def _names(self, entities: list[str]) -> str:
        names = [self._name(e) for e in entities]
        return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]

    def _phrase(self, entity: str, attribute: str, plural: bool) -> str:
        phrase = self.rng.choice(ATTRIBUTE[attribute].phrases[self.beliefs[entity, attribute]])
        return conjugated(phrase, plural)

    def _predicate(self, entity: str) -> str:
        """All that the task needs to know of one entity: "has low rent and is quiet"."""
        plural = is_plural(self.task.domain, entity)
        return " and ".join(self._phrase(entity, a, plural) for a in self.task.attributes)

    def _noun(self) -> str:
        return " and ".join(self.rng.choice(NEED[n].nouns) for n in self.task.needs)

    def _be(self, entity: str) -> str:
        return "are" if is_plural(self.task.domain, entity) else "is"

    def fact_sentences(self) -> list[str]:
        """The facts in one to three sentences; entities of one level may share a verb."""
        task, order = self.task, self._order()
        if task.kind in ("choose", "list") and self.rng.random() < 0.6:
            attribute = task.attributes[0]
            groups = [[e for e in order if self.beliefs[e, attribute] == at] for at in (0, 1, 2)]
            parts = [
                f"{self._names(g)} " + self._phrase(g[0], attribute, len(g) > 1 or is_plural(task.domain, g[0]))
                for g in self.rng.sample(groups, 3)
                if g
            ]
        else:
            parts = [f"{self._name(e)} {self._predicate(e)}" for e in order]
        if len(parts) == 2 and self.rng.random() < 0.7:
            return [sentence_case(self.rng.choice(w.CONTRASTS).format(*parts))]
        if len(parts) == 3 and self.rng.random() < 0.5:
            return [sentence_case(f"{parts[0]}, {parts[1]} and {parts[2]}.")]
        return [sentence_case(part) + "." for part in parts]

    def conclusion(self) -> str:
        """The recommendation, or for "explain" what the fact means for a need."""
        task = self.task
        if task.kind == "explain":
            return self._verdict()
        fits_several = len(self.chosen) > 1
        table = {"compare": w.BETTER, "list": w.FIT_SEVERAL if fits_several else w.FIT_ONE}
        text = self.rng.choice(table.get(task.kind, w.BEST))
        return sentence_case(
            text.format(x=self._names(self.chosen), need=self._noun(), be=self._be(self.chosen[0]))
        )

    def _verdict(self) -> str:
        (fact,) = self.task.facts
        needs = [need for need in NEED.values() if need.attribute == fact[1]]
        need = self.rng.choice(needs)
        text = self.rng.choice(w.VERDICTS[goodness(need, self.beliefs[fact])])
        return text.format(x=self._name(fact[0]), be=self._be(fact[0]), need=self.rng.choice(need.nouns))

    def direct(self) -> str:
        """The facts and the answer, nothing else."""
        facts, conclusion = self.fact_sentences(), self.conclusion()
        if self.task.kind == "explain" or self.rng.random() < 0.6:
            return " ".join([*facts, conclusion])
        return " ".join([conclusion, *facts])

    def structured(self) -> str:
        """A bulleted list of the facts, then the answer."""
        lines = [f"- {sentence_case(self._name(e))} {self._predicate(e)}." for e in self._order()]
        head = [self.rng.choice(w.HEADS)] if self.rng.random() < 0.5 else []
        foot = self.rng.choice(w.FEET) + sentence_case(self.conclusion().removeprefix("So "))
        return "\n".join([*head, *lines, foot])

    def padded(self) -> str:
        """The direct answer drowned in words that say nothing."""
        count = self.rng.randint(4, 6)
        filler = self.rng.sample(w.FILLERS, count)
        cut = self.rng.randint(1, count - 1)
        return " ".join([*filler[:cut], self.direct(), *filler[cut:]])

    def looping(self) -> str:
        """The direct answer, then one thing again and again."""
        text = self.direct()
        if self.rng.random() < 0.4:
            confidence = f"Confidence: {self.rng.choice(w.CONFIDENCES)}%"
            return "\n".join([text, *[confidence] * self.rng.randint(4, 12)])
        sentences = text.split(". ")
        again = self.rng.choice(sentences).rstrip(".") + "."
        return " ".join([text, *[again] * self.rng.randint(4, 9)])

    def meta_commentary(self) -> str:
        """The direct answer with talk about the one who answers."""
        talk = self.rng.sample(w.META_TALK, self.rng.randint(2, 4))
        cut = self.rng.randint(1, len(talk))
        return " ".join([*talk[:cut], self.direct(), *talk[cut:]])

    def hedged(self) -> str:
        """The direct answer, taken back by half."""
        doubts = self.rng.sample(w.DOUBTS, self.rng.randint(2, 3))
        return " ".join([doubts[0], self.direct(), *doubts[1:]])

    def incomplete(self) -> str:
        """Vague: no facts, and an answer only sometimes."""
        if self.task.kind != "explain" and self.rng.random() < 0.5:
            return " ".join([self.conclusion(), self.rng.choice(w.VAGUE)])
        return " ".join(self.rng.sample(w.VAGUE, 2))

    def wrong(self) -> str:
        """In good form, but with a false fact, a false answer, or both."""
        fault = self.rng.choice(("facts", "answer", "both")) if self.task.kind != "explain" else "facts"
        if fault != "answer":
            facts = self.rng.sample(self.task.facts, self.rng.randint(1, min(2, len(self.task.facts))))
            for fact in facts:
                self.beliefs[fact] = self.rng.choice([at for at in (0, 1, 2) if at != self.beliefs[fact]])
        if fault != "facts":
            self.chosen = self._wrong_choice()
        form: Callable[[], str] = self.rng.choice((self.direct, self.direct, self.structured))
        return form()

    def _wrong_choice(self) -> list[str]:
        """Entities to recommend that are not the right answer."""
        task, order = self.task, self._order()
        if task.kind != "list":
            return [e for e in order if e not in task.answer][:1]
        count = self.rng.randint(1, len(order) - 1)
        picked = order[:count]
        return picked if set(picked) != task.answer else [e for e in order if e not in task.answer]
