"""Votes as rows to train on: pairs in TRL's preference layout, or completions with KTO's labels.

A person's votes on an item count as their mean, and the item as the mean of its persons. What they leave even is no
pair, and is counted. With KTO's labels a completion is wanted where more persons found it good (the better, or both
good) than not, and unwanted where fewer did; as many are counted out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from trimtab.data.fields import UnusableRowError
from trimtab.data.vote_file import CastVote, Item, read_votes
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue

PAIRS, LABELS = "pairs", "kto"
"""What a file of votes can be read as: data.config."""
LEARNED = ("prompt", "chosen", "rejected", "completion", "label")
"""The columns that are trained on; the others say where they are from."""


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """An item and the votes on it that are judgements, in order. share: of the first answer, the mean of its
    persons' means."""

    item: Item
    votes: Sequence[CastVote]

    @property
    def share(self) -> float:
        by_person: dict[str, list[float]] = {}
        for vote in self.votes:
            assert vote.share is not None
            by_person.setdefault(vote.person, []).append(vote.share)
        return fmean(fmean(shares) for shares in by_person.values())

    def goods(self) -> tuple[float, float]:
        """Of each answer, how many persons found it good less how many did not; of a person's votes the mean."""
        by_person: dict[str, list[tuple[int, int]]] = {}
        for vote in self.votes:
            by_person.setdefault(vote.person, []).append(_goods(vote))
        means = [[fmean(column) for column in zip(*marks, strict=True)] for marks in by_person.values()]
        first, second = (round(sum(column), 9) for column in zip(*means, strict=True))
        return first, second


def _goods(vote: CastVote) -> tuple[int, int]:
    """Of the first and the second answer, 1 where the person found it good, -1 where not."""
    if vote.verdict in ("both good", "both bad"):
        both = 1 if vote.verdict == "both good" else -1
        return both, both
    return (1, -1) if vote.share == 1 else (-1, 1)


def judged_items(votes: Sequence[CastVote]) -> list[JudgedItem]:
    """Items with a judgement, in the order of their first."""
    by_item: dict[str, list[CastVote]] = {}
    for vote in votes:
        if vote.share is not None:
            by_item.setdefault(vote.item.id, []).append(vote)
    return [JudgedItem(found[0].item, found) for found in by_item.values()]


def pair_row(judged: JudgedItem) -> JsonObject | None:
    """TRL's prompt, chosen and rejected as conversations, and where they are from; None where persons are even."""
    share, item = judged.share, judged.item
    if round(share - 0.5, 9) == 0:
        return None
    sides = [(item.first, item.first_completion), (item.second, item.second_completion)]
    (better, chosen), (worse, rejected) = sides if share > 0.5 else sides[::-1]
    return {
        "prompt": messages_of(item),
        "chosen": _answer(chosen),
        "rejected": _answer(rejected),
        "chosen_method": better,
        "rejected_method": worse,
        "share": max(share, 1 - share),
        **provenance(judged),
    }


def label_rows(judged: JudgedItem) -> list[JsonObject]:
    """KTO's prompt, completion and label of those of the two answers on which persons are not even."""
    item = judged.item
    sides = ((item.first, item.first_completion), (item.second, item.second_completion))
    return [
        {
            "prompt": messages_of(item),
            "completion": _answer(text),
            "label": good > 0,
            "method": method,
            **provenance(judged),
        }
        for (method, text), good in zip(sides, judged.goods(), strict=True)
        if good != 0
    ]


def provenance(judged: JudgedItem) -> JsonObject:
    """Which item a row is of, and what was said of it by whom."""
    item = judged.item
    votes: list[JsonValue] = [
        {"person": vote.person, "verdict": stood(vote), "reasons": json.loads(vote.reasons), "note": vote.note,
         "time": vote.time}
        for vote in judged.votes
    ]  # fmt: skip
    return {
        "item": item.id,
        "prompt_id": item.prompt_id,
        "seed": item.seed,
        "purpose": item.purpose,
        "persons": len({vote.person for vote in judged.votes}),
        "votes": votes,
    }


def stood(vote: CastVote) -> str:
    """A verdict by the name of the method that was preferred, whichever side it stood on."""
    if vote.verdict not in ("left", "right"):
        return vote.verdict
    return vote.item.first if vote.share == 1 else vote.item.second


def messages_of(item: Item) -> list[JsonValue]:
    """The conversation that was answered."""
    found: list[JsonValue] = json.loads(item.messages)
    return found


def _answer(text: str) -> list[JsonValue]:
    return [{"role": "assistant", "content": text}]


def rows_of_votes(path: Path, config: str | None) -> Iterator[tuple[int | str, object]]:
    """A file of votes as rows to train on, each with its item's id. config: "pairs", or "kto" for labelled
    completions. TrimtabError for another."""
    if config not in (None, PAIRS, LABELS):
        raise TrimtabError(f"data {path}: votes are read as {PAIRS} or {LABELS} (data.config), not as {config!r}.")
    for judged in judged_items(read_votes(path)):
        rows = label_rows(judged) if config == LABELS else [row for row in [pair_row(judged)] if row is not None]
        yield from ((judged.item.id, {name: row[name] for name in LEARNED if name in row}) for row in rows)
        if not rows:
            yield (
                judged.item.id,
                UnusableRowError("persons are even on the answers, so there is no better one."),
            )
