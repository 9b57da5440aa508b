"""Items and votes that no page was needed for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.data.vote_file import CastVote, Item, Purpose, Verdict
from trimtab.prefer.ballot import Ballot, NewVote, item_id

TIME = "2026-11-29T12:00:00.000+00:00"


def item(
    number: int,
    first: str = "dpo",
    second: str = "sft",
    purpose: Purpose = "random",
    seed: int | None = None,
    texts: tuple[str, str] | None = None,
) -> Item:
    prompt, (a, b) = f"ask {number}", texts or (f"{first} {number}", f"{second} {number}")
    messages = json.dumps([{"role": "user", "content": prompt}])
    key = item_id(prompt, [(first, seed, a), (second, seed, b)], purpose, f"p{number}")
    return Item(key, purpose, f"p{number}", prompt, messages, first, second, seed, a, b)


def cast(
    on: Item,
    person: str,
    verdict: Verdict,
    swapped: bool = False,
    repeated: bool = False,
    milliseconds: int | None = 4000,
    number: int = 1,
) -> CastVote:
    vote_id = f"{person} {on.id} {repeated}"
    return CastVote(number, vote_id, on, person, swapped, repeated, verdict, "[]", "", milliseconds, TIME)


def vote_all(
    path: Path, items: Sequence[Item], persons: Sequence[str], says: Callable[[str, Item], str], per_item: int = 2
) -> Path:
    """A file in which these persons judged all that wanted them. says: "first", "second", or a verdict."""
    ballot = Ballot(path, items, per_item)
    going = list(persons)
    while going:
        for person in list(going):
            if not (shown := ballot.next_for(person)):
                going.remove(person)
                continue
            one = shown[0]
            said = says(person, one.item)
            left = "first" if not one.swapped else "second"
            verdict = ("left" if said == left else "right") if said in ("first", "second") else said
            vote_id = f"{person} {one.item.id} {one.repeated}"
            ballot.record(NewVote(vote_id, one.item.id, person, one.repeated, verdict))  # type: ignore[arg-type]
    ballot.close()
    return path
