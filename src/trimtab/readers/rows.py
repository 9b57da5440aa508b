"""What every reader gives: the rows of one method, whoever wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from trimtab.data.message import Turns
from trimtab.json_types import JsonValue


@dataclass(frozen=True, slots=True)
class Side:
    """One answer to a prompt. What the file does not say is None. reason: why there is no score. breakdown: its
    parts."""

    completion: str | None = None
    score: float | None = None
    reason: str | None = None
    tokens: int | None = None
    terminated: bool | None = None
    characters: int | None = None
    breakdown: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """In characters."""
        return self.characters if self.completion is None else len(self.completion)


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, a method's answer and, where the same row holds one, an opponent's.

    key: the prompt's id in its file. preference: the share that the method won of a judgement that saw both
    answers, 0 to 1. judged: whether there is such a judgement; one that failed has no preference. turns: the whole
    conversation before the answers, where it is known to be more than the prompt. columns: the row's others.
    """

    key: str | None
    prompt: str | None
    side: Side
    opponent: Side | None = None
    preference: float | None = None
    judged: bool = False
    turns: Turns = ()
    columns: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass
class MethodRows:
    """One method's rows. name: as its source calls it. origin: the source, for messages. opponent: what the rows'
    other side is called. judge: who scored, where that is known. unreadable: rows that were left out, by reason.
    whole: whether a prompt without turns is known to be all that was asked."""

    name: str
    rows: list[Row]
    origin: str
    opponent: str | None = None
    judge: str | None = None
    seed: int | None = None
    unreadable: Counter[str] = field(default_factory=Counter)
    whole: bool = False

    @property
    def knows_turns(self) -> bool:
        """Whether its prompts are whole conversations."""
        return self.whole or any(row.turns for row in self.rows)

    @property
    def has_scores(self) -> bool:
        """Whether any of its answers has a score."""
        return any(row.side.score is not None for row in self.rows)

    @property
    def has_opponent(self) -> bool:
        """Whether its rows say what it was compared with: scores of both sides, or preferences."""
        scored = any(row.opponent is not None and row.opponent.score is not None for row in self.rows)
        return scored or any(row.judged for row in self.rows)
