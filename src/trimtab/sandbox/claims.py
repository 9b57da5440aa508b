"""Reads a completion into what it claims, compares, recommends and rejects.

A small reader rather than a language model: sentences are cut into clauses, and each clause is a
subject (entities, carried over where it names none) with what is said of it. One pass, linear in the
text's length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from trimtab.sandbox.lexicon import Item, lex
from trimtab.sandbox.world import LEVELS

SENTENCE = re.compile(r"[^.!?\n]+[.!?]*|\n")
BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s")
PREDICATES = frozenset({"level", "grade", "more", "better", "fits", "beats", "orders", "rejects", "label"})
REASONS = (("and", "because"), ("and", "since"), ("and", "as"))
CUTS = frozenset({"over", "than", "beats"})


@dataclass(frozen=True, slots=True)
class Claim:
    """That the entity's level is one of `allowed`; two levels for vague or negated statements."""

    entity: str
    attribute: str
    allowed: frozenset[int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """That `entity` has less (sign −1) or more (+1) of the attribute than `other`."""

    entity: str
    other: str
    attribute: str
    sign: int


@dataclass(slots=True)
class Reading:
    """Everything a completion was understood to say, each thing once, in order."""

    claims: dict[Claim, None] = field(default_factory=dict)
    comparisons: dict[Comparison, None] = field(default_factory=dict)
    recommended: dict[str, None] = field(default_factory=dict)
    rejected: dict[str, None] = field(default_factory=dict)
    # (entity, need) -> said to serve it, where a clause names both
    verdicts: dict[tuple[str, str], bool] = field(default_factory=dict)
    bulleted: dict[Claim, int] = field(default_factory=dict)  # claim -> which bullet's line made it
    # entities that make a sentence of their own: "Lisbon." is an answer if there is no other
    bare: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Effects:
    """What one clause says about its subject, kept so that a trailing entity can share it."""

    claims: list[tuple[str, frozenset[int]]] = field(default_factory=list)
    compared: list[tuple[str, int]] = field(default_factory=list)
    fits: bool | None = None
    labelled: bool = False  # only by a label, "my answer: Lisbon", which needs its entity beside it
    need: str | None = None
    open_ended: bool = False  # the clause ended with its entity: "choose Lisbon", so "and Rome" adds to it


class Reader:
    """Reads one completion; `options` are the task's entities in the prompt's order."""

    def __init__(self, domain: str, options: tuple[str, ...]) -> None:
        self.domain = domain
        self.options = options
        self.reading = Reading()
        self.lines = 0
        self.subject: list[str] = []
        self.header: bool | None = None  # inside a list under "These fit:"
        self._start_sentence()

    def _start_sentence(self) -> None:
        self.pending: list[str] = []
        self.pending_not = False
        self.open_fit: bool | None = None
        self.topic: str | None = None
        self.last: Effects | None = None
        self.aside: list[str] = []  # the names after "unlike"
        self.has_subject = False

    def read(self, text: str) -> Reading:
        """The whole completion."""
        bullet, line_start = False, True
        for match in SENTENCE.finditer(text):
            sentence = match[0]
            if sentence == "\n":
                line_start = True
                continue
            if line_start:
                bullet = BULLET.match(sentence) is not None
                line_start = False
                self.lines += 1
                if not bullet and sentence.strip():
                    self.header = None
            if not sentence.rstrip().endswith("?"):
                self._read_sentence(sentence, bullet)
        return self.reading

    def _read_sentence(self, sentence: str, bullet: bool) -> None:
        self._start_sentence()
        before = len(self.reading.claims)
        clause: list[Item] = []
        for item in [*lex(self.domain, sentence), ("and", "")]:
            if item[0] != "and":
                clause.append(item)
            elif clause:
                self._read_clause(clause)
                clause = []
            if item in REASONS and self.pending and not bullet:
                self._answer_first()
        if bullet and self.header is not None and self.pending and self.last is None:
            self._judge(self.pending, self.header != self.pending_not, None)
        elif self.pending and self.last is None and not self.pending_not:
            self.subject = self.pending
            self.reading.bare.update(dict.fromkeys(self.pending if not bullet else ()))
        if self.open_fit is not None and sentence.rstrip().endswith(":"):
            self.header = self.open_fit
        if bullet:
            for claim in list(self.reading.claims)[before:]:
                self.reading.bulleted[claim] = self.lines

    def _answer_first(self) -> None:
        """ "Oslo, because …": a name before a reason is an answer."""
        if not self.pending_not:
            self.subject, self.has_subject = self.pending, True
            self.reading.bare.update(dict.fromkeys(self.pending))
            self.pending = []

    def _read_clause(self, clause: list[Item]) -> None:
        cut = next((i for i, (tag, _) in enumerate(clause) if tag in CUTS), len(clause))
        named = self._named(clause[:cut])
        others = self._named(clause[cut:])
        said = next((i for i, item in enumerate(clause) if _says(item)), None)
        if said is None:
            self._read_names(clause, named)
            if others and self.last is not None and self.last.fits is not None:
                self._judge(others, not self.last.fits, None)
            return
        negated = any(tag in ("not", "neither") for tag, _ in clause[:said])
        effects = self._effects(clause, negated != self.pending_not)
        if self.aside and clause[0][0] == "where":  # "unlike London, where rent is high, …"
            self._apply(self.aside, effects)
            return
        self.aside = []
        subject = self._subject(clause, named, said, effects)
        self.pending, self.pending_not = [], False
        self.last = effects
        if not subject:
            if effects.fits is not None:
                self.open_fit = effects.fits
            return
        self.subject, self.has_subject, self.open_fit = subject, True, None
        self._apply(subject, effects)
        if effects.fits is not None and others:
            self._judge(others, not effects.fits, None)
        for attribute, sign in effects.compared:
            rivals = others or ([o for o in self.options if o not in subject] if len(self.options) == 2 else [])
            for entity in subject:
                for other in rivals:
                    self.reading.comparisons[Comparison(entity, other, attribute, sign)] = None

    def _named(self, items: list[Item]) -> list[str]:
        """Entities that the items name, with "the former" and the like resolved."""
        names: list[str] = []
        for tag, value in items:
            if tag == "entity":
                names.append(value)
            elif tag == "former":
                names.append(self.options[0])
            elif tag == "latter":
                names.append(self.options[-1])
            elif tag == "other":
                names.extend(o for o in self.options if o not in self.subject)
        return names

    def _read_names(self, clause: list[Item], named: list[str]) -> None:
        """A clause that only names entities: what is said of them comes later or came before."""
        if clause[0][0] == "aside" and named:
            self.aside = named
        if not named or self.aside:
            return
        negated = any(tag == "not" for tag, _ in clause)
        if self.open_fit is not None:
            self._judge(named, self.open_fit != negated, None)
            self.subject = named
        elif self.last is not None and self.last.open_ended:
            if self.last.fits is not None:
                self._judge(named, self.last.fits != negated, self.last.need)
            if not negated:
                self._apply(named, Effects(claims=self.last.claims))
        else:
            self.pending += named
            self.pending_not |= negated or clause[0][0] == "neither"

    def _effects(self, clause: list[Item], negated: bool) -> Effects:
        """What the clause says, whoever it is about."""
        effects = Effects(open_ended=False)
        topics = [(i, value) for i, (tag, value) in enumerate(clause) if tag == "topic"]
        named_at = [i for i, (tag, _) in enumerate(clause) if tag == "entity"]
        for i, (tag, value) in enumerate(clause):
            soft = i > 0 and clause[i - 1][0] == "soft"
            near = _nearest(topics, i)
            about: str | None = near or self.topic
            if tag == "level":
                effects.claims.append((value[0], _allowed(value[1], negated, soft)))
                self.topic = value[0]
            elif tag == "grade" and about:
                effects.claims.append((about, _allowed(value, negated, soft)))
            elif tag == "more" and (value[0] or about):
                effects.compared.append((str(value[0] or about), -value[1] if negated else value[1]))
            elif tag == "better" and near:
                effects.compared.append((near, value if not negated else -value))
            elif effects.fits is None and (fits := _fits((tag, value))) is not None:
                effects.fits = fits != negated
            if tag == "need":
                effects.need = value[0]
        if topics:
            self.topic = topics[-1][1]
        if effects.fits is None and not effects.claims and not effects.compared:
            # only a label: "My pick is Lisbon"
            effects.labelled = any(tag == "label" for tag, _ in clause)
            effects.fits = not any(tag == "not" for tag, _ in clause) if effects.labelled else None
        said = max(i for i, item in enumerate(clause) if _says(item))
        effects.open_ended = bool(named_at) and named_at[-1] > said
        return effects

    def _subject(self, clause: list[Item], named: list[str], said: int, effects: Effects) -> list[str]:
        tags = [tag for tag, _ in clause]
        if "orders" in tags and named:
            return named
        if self.pending or named:
            return self.pending + named
        if any(tag in ("all", "neither") for tag in tags[:said]) and "it" not in tags[:said]:
            return list(self.options)
        if "self" in tags[:said] and "it" not in tags[:said] and "orders" not in tags:
            return []  # about somebody else: "my training data has many examples"
        about_subject = "it" in tags or (self.has_subject and "orders" not in tags)
        if effects.fits is not None and (effects.labelled or not about_subject):
            return []
        return self.subject

    def _apply(self, entities: list[str], effects: Effects) -> None:
        for entity in entities:
            for attribute, allowed in effects.claims:
                self.reading.claims[Claim(entity, attribute, allowed)] = None
        if effects.fits is not None:
            self._judge(entities, effects.fits, effects.need)

    def _judge(self, entities: list[str], fits: bool, need: str | None) -> None:
        for entity in entities:
            (self.reading.recommended if fits else self.reading.rejected)[entity] = None
            if need is not None:
                self.reading.verdicts[entity, need] = fits


def _nearest(topics: list[tuple[int, str]], position: int) -> str | None:
    """The attribute named closest to the position in the clause."""
    return min((abs(at - position), attribute) for at, attribute in topics)[1] if topics else None


def _fits(item: Item) -> bool | None:
    """Whether the item recommends (True), rejects (False) or does neither."""
    tag, value = item
    if tag == "better":
        return bool(value > 0)
    if tag == "need":
        return None if value[1] is None else bool(value[1])
    return {"fits": True, "beats": True, "orders": True, "rejects": False}.get(tag)


def _says(item: Item) -> bool:
    """Whether the item says something of a subject."""
    return item[0] in PREDICATES or (item[0] == "need" and item[1][1] is not None)


def _allowed(levels: frozenset[int], negated: bool, soft: bool) -> frozenset[int]:
    """The levels a statement leaves open; "fairly cheap" may be in the middle, "not cheap" is the rest."""
    if soft:
        levels = levels | {1}
    return frozenset(LEVELS) - levels if negated else levels
