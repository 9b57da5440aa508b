"""The sandbox's closed world: entities, their attributes, and the needs that the attributes serve.

Every (entity, attribute) has a level 0, 1 or 2. A need asks for one end of one attribute, so how well
an entity serves it is the level counted from that end. Nothing here is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from trimtab.sandbox.tables import FACTS, LABELS, NEEDS, PHRASES

LEVELS = (0, 1, 2)
WITHOUT_ARTICLE = ("city", "food")
PLURAL_VERBS = {"has": "have", "is": "are"}
# Foods whose name is a plural take the plural verb.
PLURAL_NAMES = frozenset({"tacos", "beans", "lentils", "pancakes", "noodles", "dumplings"})


@dataclass(frozen=True, slots=True)
class Attribute:
    """One property that every entity of a domain has at some level; phrases[level] are verb phrases."""

    key: str
    domain: str
    phrases: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """What somebody wants; `wanted` (0 or 2) is the level of the attribute that serves it."""

    key: str
    attribute: str
    wanted: int
    goals: tuple[str, ...]
    nouns: tuple[str, ...]

    @property
    def domain(self) -> str:
        """The domain of the need's attribute."""
        return self.attribute.split(".")[0]


def _read_facts() -> dict[str, dict[str, dict[str, int]]]:
    """domain -> entity -> attribute -> level."""
    facts: dict[str, dict[str, dict[str, int]]] = {}
    for domain, table in FACTS.items():
        keys = [key for key in PHRASES if key.startswith(domain + ".")]
        words = table.split()
        facts[domain] = {
            name: dict(zip(keys, map(int, digits), strict=True))
            for name, digits in zip(words[::2], words[1::2], strict=True)
        }
    return facts


WORLD = _read_facts()
DOMAINS = tuple(WORLD)
ATTRIBUTE = {key: Attribute(key, key.split(".")[0], phrases, LABELS[key]) for key, phrases in PHRASES.items()}
NEED = {key: Need(key, *row) for key, row in NEEDS.items()}
DOMAIN_NEEDS = {d: tuple(n for n in NEED.values() if n.domain == d) for d in DOMAINS}
DOMAIN_ATTRIBUTES = {d: tuple(a for a in ATTRIBUTE.values() if a.domain == d) for d in DOMAINS}


def level(domain: str, entity: str, attribute: str) -> int:
    """The truth about one entity."""
    return WORLD[domain][entity][attribute]


def goodness(need: Need, at: int) -> int:
    """How well a level serves the need: 0 badly, 1 so so, 2 well."""
    return 2 - abs(need.wanted - at)


@cache
def named(domain: str, entity: str) -> str:
    """The entity as it stands inside a sentence: "Lisbon", "rice", "an owl"."""
    if domain in WITHOUT_ARTICLE:
        return entity
    return ("an " if entity[0] in "aeiou" else "a ") + entity


def is_plural(domain: str, entity: str) -> bool:
    """Whether the name takes a plural verb."""
    return domain == "food" and entity in PLURAL_NAMES


def conjugated(phrase: str, plural: bool) -> str:
    """The verb phrase with its verb in the plural where asked: "has low rent" -> "have low rent"."""
    if not plural:
        return phrase
    verb, _, rest = phrase.partition(" ")
    return f"{PLURAL_VERBS.get(verb, verb.removesuffix('s'))} {rest}"


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case and the rest as it was."""
    return text[:1].upper() + text[1:]
