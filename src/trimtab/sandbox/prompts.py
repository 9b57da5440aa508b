"""Tasks over the world, the prompts that ask them, and the split that keeps the test set unseen.

A task is a question about some entities and needs; its wording is part of it, so that
`parse_prompt(task.prompt) == task` exactly. The split is decided by what is asked, not by how: a
(kind, set of entities, set of needs) that is held out never occurs in training in any wording.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from trimtab.sandbox.world import (
    ATTRIBUTE,
    DOMAIN_ATTRIBUTES,
    DOMAIN_NEEDS,
    DOMAINS,
    NEED,
    WORLD,
    goodness,
    level,
    named,
    sentence_case,
)

Kind = Literal["compare", "choose", "list", "explain", "advise"]
Split = Literal["train", "validation", "test"]

# {a} the entities joined by "or"; {A} the same at the start of a sentence; {and} joined by "and";
# {goal}, {noun} a need; {goal2}, {noun2} the second need; {x} the attribute that is to be explained;
# {in} "in" or "with".
# The last HELD_OUT_WORDINGS of each kind never occur in training.
HELD_OUT_WORDINGS = 2
TEMPLATES: dict[Kind, tuple[str, ...]] = {
    "compare": (
        "I want to {goal} {in} {a}.",
        "I want to {goal}. Should I choose {a}?",
        "Which is better for {noun}, {a}?",
        "Please compare {and} for {noun}.",
        "{A}: which one suits {noun} more?",
        "Could you tell me whether {a} is better for {noun}?",
        "Hello! My friend wants to {goal}. Would you say {a}?",
        "I need help with a choice for {noun}: {a}? Thank you.",
        "If I want to {goal}, what is the better option, {a}?",
        "Help me decide between {and} for {noun}.",
    ),
    "choose": (
        "Choose one for {noun}: {a}.",
        "I want to {goal}. Which one is best: {a}?",
        "Which of these is the best for {noun}? {A}.",
        "Please pick the best option for {noun} from {and}.",
        "I can not decide on {a}. I want to {goal}.",
        "Could you choose one of {a} for me? I want to {goal}.",
        "My sister wants to {goal}. Her options are {and}. What is best?",
        "{A}: which is the best for {noun}?",
        "Suppose I want to {goal}. What would you pick out of {a}?",
        "Name the best one for {noun} among {and}, please.",
    ),
    "list": (
        "Which of {and} fit {noun}?",
        "List the ones that fit {noun}: {and}.",
        "I want to {goal}. Which of these fit: {a}?",
        "Please list all that suit {noun} among {and}.",
        "Look at {and}. Which are good for {noun}?",
        "Could you tell me which of {and} are right if I want to {goal}?",
        "We want to {goal}. Tell us what works from this list: {and}.",
        "Here is my list: {and}. Keep only what suits {noun}.",
        "From {and}, select everything that is good for {noun}.",
        "Hi, what among {and} would help me to {goal}?",
    ),
    "explain": (
        "Explain {x}.",
        "Tell me about {x}.",
        "Please describe {x}.",
        "What should I know about {x}?",
        "Could you explain {x} to me?",
        "I have a question about {x}.",
        "Hello! Can you say something about {x}?",
        "What can you tell me about {x}?",
        "In a few words, describe {x}, please.",
    ),
    "advise": (
        "I want to {goal} and {goal2}. What do you recommend, {a}?",
        "Recommend {a} for {noun} and {noun2}.",
        "I need something for {noun} and {noun2}. Is it {a}?",
        "Please advise me: {a}? I want to {goal} and {goal2}.",
        "My brother thinks about {a}. He wants to {goal} and also to {goal2}.",
        "Could you advise us on {a}? We care about {noun} and {noun2}.",
        "{A}: what is the best for both {noun} and {noun2}?",
        "I am looking for {noun} but also for {noun2}. Would you take {a}?",
        "What is your advice on {a} if I want to {goal} and {goal2}?",
        "Thinking of {noun} plus {noun2}, which should I get: {a}?",
    ),
}
KINDS: tuple[Kind, ...] = tuple(TEMPLATES)
KIND_SHARES: dict[Kind, float] = {"compare": 0.3, "choose": 0.2, "list": 0.2, "explain": 0.1, "advise": 0.2}
TRAIN_PERCENT, VALIDATION_PERCENT = 86, 5


@dataclass(frozen=True, slots=True)
class Task:
    """One question. `needs` holds need keys, or for "explain" the one attribute's key.

    entities: in the order in which the prompt names them. template: index of the wording.
    phrasings: for each need (or attribute) the index of its wording.
    """

    kind: Kind
    domain: str
    entities: tuple[str, ...]
    needs: tuple[str, ...]
    template: int
    phrasings: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The question in words."""
        return render(self)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that the answer rests on."""
        return self.needs if self.kind == "explain" else tuple(NEED[n].attribute for n in self.needs)

    @property
    def answer(self) -> frozenset[str]:
        """The entities to recommend; for "explain" none."""
        return right_answer(self.kind, self.domain, self.entities, self.needs)

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The (entity, attribute) pairs that a complete answer states."""
        return tuple((e, a) for e in self.entities for a in self.attributes)

    @property
    def split(self) -> Split:
        """Where what is asked belongs, whatever the wording."""
        key = "|".join([self.kind, self.domain, *sorted(self.entities), "/", *sorted(self.needs)])
        percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
        if percent < TRAIN_PERCENT:
            return "train"
        return "validation" if percent < TRAIN_PERCENT + VALIDATION_PERCENT else "test"

    @property
    def key(self) -> tuple[str, str, frozenset[str], frozenset[str]]:
        """What is asked, without the wording and the order."""
        return self.kind, self.domain, frozenset(self.entities), frozenset(self.needs)


def right_answer(kind: Kind, domain: str, entities: tuple[str, ...], needs: tuple[str, ...]) -> frozenset[str]:
    """The entities that fit ("list"), or those that share first place ("compare", "choose", "advise")."""
    if kind == "explain":
        return frozenset()
    totals = {e: sum(goodness(NEED[n], level(domain, e, NEED[n].attribute)) for n in needs) for e in entities}
    bar = 2 if kind == "list" else max(totals.values())
    return frozenset(e for e, total in totals.items() if total == bar)


def _joined(domain: str, entities: tuple[str, ...], word: str) -> str:
    names = [named(domain, e) for e in entities]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" {word} " + names[-1]


def render(task: Task) -> str:
    """The prompt's text."""
    text = TEMPLATES[task.kind][task.template]
    if task.kind == "explain":
        label = ATTRIBUTE[task.needs[0]].labels[task.phrasings[0]]
        return text.replace("{x}", label.replace("{x}", named(task.domain, task.entities[0])))
    joined = _joined(task.domain, task.entities, "or")
    text = text.replace("{in}", "in" if task.domain == "city" else "with")
    text = text.replace("{and}", _joined(task.domain, task.entities, "and"))
    text = text.replace("{a}", joined).replace("{A}", sentence_case(joined))
    for suffix, key, phrasing in zip(("", "2"), task.needs, task.phrasings, strict=False):
        for slot, words in (("goal", NEED[key].goals), ("noun", NEED[key].nouns)):
            if f"{{{slot}{suffix}}}" in text:
                text = text.replace(f"{{{slot}{suffix}}}", words[phrasing])
    return text


def _pattern(template: str) -> re.Pattern[str]:
    def slot(match: re.Match[str]) -> str:
        name = match[1]
        words = {w for n in NEED.values() for w in getattr(n, name.removesuffix("2") + "s", ())}
        return f"(?P<{name}>{'|'.join(map(re.escape, sorted(words))) or '[^.?!:]+?'})"

    pattern = re.escape(template).replace(r"\{in\}", "(?:in|with)")
    return re.compile(re.sub(r"\\\{(\w+)\\\}", slot, pattern))


PATTERNS = {kind: tuple(map(_pattern, templates)) for kind, templates in TEMPLATES.items()}


def _name_table() -> dict[str, tuple[str, str]]:
    table = {}
    for domain, entities in WORLD.items():
        for entity in entities:
            table[named(domain, entity)] = table[sentence_case(named(domain, entity))] = (domain, entity)
    return table


NAMES = _name_table()
NEED_WORDS: dict[tuple[str, str, str], tuple[str, int]] = {
    (need.domain, slot, words): (need.key, i)
    for need in NEED.values()
    for slot, wordings in (("goal", need.goals), ("noun", need.nouns))
    for i, words in enumerate(wordings)
}
LABEL_WORDS: dict[str, tuple[str, str, int, str]] = {
    label.replace("{x}", named(domain, entity)): (domain, attribute.key, i, entity)
    for domain, attributes in DOMAIN_ATTRIBUTES.items()
    for attribute in attributes
    for i, label in enumerate(attribute.labels)
    for entity in WORLD[domain]
}


def _task(kind: Kind, template: int, slots: dict[str, str]) -> Task | None:
    """The task that the filled slots describe, if the world knows their words."""
    if kind == "explain":
        label = LABEL_WORDS.get(slots["x"])
        if label is None:
            return None
        domain, attribute, phrasing, entity = label
        return Task(kind, domain, (entity,), (attribute,), template, (phrasing,))
    names = [
        NAMES.get(name)
        for name in re.split(", | or | and ", next(slots[s] for s in ("a", "A", "and") if s in slots))
    ]
    entries = [name for name in names if name is not None]
    if len(entries) < len(names) or len({domain for domain, _ in entries}) != 1:
        return None
    domain = entries[0][0]
    needs = [
        NEED_WORDS.get((domain, slot, slots[slot + suffix]))
        for suffix in ("", "2")
        for slot in ("goal", "noun")
        if slot + suffix in slots
    ]
    if any(need is None for need in needs):
        return None
    keys, phrasings = zip(*(need for need in needs if need is not None), strict=True)
    return Task(kind, domain, tuple(entity for _, entity in entries), keys, template, phrasings)


@cache
def parse_prompt(text: str) -> Task | None:
    """The task whose prompt this is, or None for a prompt that is not of this world."""
    if len(text) > 300:  # longer than any prompt; keeps hostile text away from the patterns
        return None
    for kind, patterns in PATTERNS.items():
        for template, pattern in enumerate(patterns):
            match = pattern.fullmatch(text)
            task = _task(kind, template, match.groupdict()) if match else None
            if task is not None and render(task) == text:
                return task
    return None


def _draw(rng: random.Random, held_out_wordings: bool) -> Task | None:
    """One random task, or None where the draw has no clear answer."""
    kind = rng.choices(KINDS, [KIND_SHARES[k] for k in KINDS])[0]
    # Cities carry most attributes, so they are asked about most.
    domain = rng.choices(DOMAINS, (4, 3, 3, 3))[0]
    count = {"compare": 2, "choose": 3, "list": rng.choice((3, 4)), "explain": 1, "advise": 2}[kind]
    entities = tuple(rng.sample(sorted(WORLD[domain]), count))
    if kind == "explain":
        needs: tuple[str, ...] = (rng.choice(DOMAIN_ATTRIBUTES[domain]).key,)
        phrasings: tuple[int, ...] = (rng.randrange(len(ATTRIBUTE[needs[0]].labels)),)
    else:
        chosen = rng.sample(DOMAIN_NEEDS[domain], 2 if kind == "advise" else 1)
        if len({need.attribute for need in chosen}) < len(chosen):
            return None
        needs = tuple(need.key for need in chosen)
    wordings = len(TEMPLATES[kind]) - (0 if held_out_wordings else HELD_OUT_WORDINGS)
    template = rng.randrange(wordings)
    if kind != "explain":
        slot = "goal" if "{goal}" in TEMPLATES[kind][template] else "noun"
        phrasings = tuple(rng.randrange(len(getattr(NEED[n], slot + "s"))) for n in needs)
    task = Task(kind, domain, entities, needs, template, phrasings)
    if kind == "list":
        return task if 0 < len(task.answer) < count else None
    return task if kind == "explain" or len(task.answer) == 1 else None


def draw_task(split: Split, rng: random.Random) -> Task:
    """A random task of the split with one clear answer; only held-out splits use held-out wordings."""
    while True:
        task = _draw(rng, held_out_wordings=split != "train")
        if task is not None and task.split == split:
            return task
