"""From sources to what people are shown: two answers to a prompt, with the names of the methods behind them.

Sources are those of `trimtab compare`, joined and set beside each other as there. A pair whose two texts are the
same is no item: nobody need be asked, and estimates take it as a tie (readers/votes.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from trimtab.comparing.judged import with_sides
from trimtab.comparing.run import Asked, read_sources
from trimtab.comparing.sides import Sides, sides_of
from trimtab.data.message import Message, prompt_as_json
from trimtab.data.records import Record
from trimtab.data.vote_file import Item, Purpose
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.summary import StudyOutputs
from trimtab.notices import say
from trimtab.prefer.ballot import item_id

Pairs = Literal["opponent", "all"]


@dataclass(frozen=True)
class _Pair:
    """Two methods' answers to the same prompts. seed: the training seed that answered, where methods have several.
    judged: whether the first's preferences are of these two."""

    first: MethodOutputs
    second: MethodOutputs
    seed: int | None
    judged: bool


def items_of(
    sources: Sequence[str],
    *,
    methods: Sequence[str] = (),
    pairs: Pairs = "opponent",
    opponent: str | None = None,
    mapping: Sequence[str] = (),
    for_training: bool = False,
) -> list[Item]:
    """The items of sources, in the order of their prompts. sources, opponent, mapping: as of `trimtab compare`.

    methods: whose answers are shown; all without any. Two that are named are shown beside each other, others beside
    the opponent (or the first method). pairs: "all" for every two instead. for_training: the items that the judge
    finds closest stand first, marked as chosen for training. TrimtabError where sources can't be read or joined, a
    method is not among them, or no two answers differ.
    """
    read = with_sides(read_sources(Asked(sources, mapping, opponent)))
    sides = sides_of(read, opponent)
    purpose: Purpose = "training" if for_training else "random"
    asked = sides.joined.asked
    found: list[tuple[float, Item]] = []
    same = 0
    for pair in _pairs(sides, methods, pairs):
        for place, item in _items(pair, purpose, asked):
            if item.first_completion.strip() == item.second_completion.strip():
                same += 1
            else:
                found.append((_margin(pair, place), item))
    if not found:
        raise TrimtabError(
            f"nothing to ask people: {same} pairs have the same text on both sides, and no others have two texts."
        )
    if same:
        say(f"{same} of {same + len(found)} pairs have the same text on both sides: not shown, they are ties")
    if for_training:
        found.sort(key=lambda one: (one[0], one[1].id))  # an id is as good as chance
    return list({item.id: item for _, item in found}.values())


def _pairs(sides: Sides, methods: Sequence[str], pairs: Pairs) -> list[_Pair]:
    runs = _runs(sides.outputs)
    known = [name for name in runs if name in methods] if methods else list(runs)
    if unknown := [name for name in methods if name not in runs]:
        raise TrimtabError(f"--methods {unknown[0]}: there is no such method. There are: {', '.join(runs)}.")
    if pairs == "all" or (len(known) == 2 and methods):
        if len(known) < 2:
            raise TrimtabError(f"--methods {known[0]} --all-pairs: name two methods or more of {', '.join(runs)}.")
        named = list(combinations(known, 2))
        return [_with_preferences(pair, sides) for a, b in named for pair in _of_seeds(runs, b, a)]
    found: list[_Pair] = []
    beside = sides.outputs.opponent.name if sides.outputs.opponent is not None else sides.start
    for name in known:
        for seed, made in runs[name].items():
            if made.opponent is not None:
                found.append(_Pair(made, made.opponent, seed, judged=True))
        if not found or found[-1].first.name != name:
            found += _of_seeds(runs, name, beside) if name != beside else []
    return [_with_preferences(pair, sides) for pair in found]


def _with_preferences(pair: _Pair, sides: Sides) -> _Pair:
    """Where the second is the opponent of all, the first's preferences are of both."""
    return replace(pair, judged=pair.judged or pair.second is sides.outputs.opponent)


def _runs(outputs: StudyOutputs) -> dict[str, dict[int | None, MethodOutputs]]:
    """By method, then by training seed, None where it has none; the opponent first."""
    runs: dict[str, dict[int | None, MethodOutputs]] = {}
    if outputs.opponent is not None:
        runs[outputs.opponent.name] = {None: outputs.opponent}
    for made in outputs.fixed:
        runs.setdefault(made.name, {})[None] = made
    for seed, of_seed in outputs.per_seed.items():
        for made in of_seed:
            runs.setdefault(made.name, {})[seed] = made
    return runs


def _of_seeds(runs: Mapping[str, Mapping[int | None, MethodOutputs]], a: str, b: str) -> Iterator[_Pair]:
    """One method beside another, of each training seed that either has."""
    ours, theirs = runs[a], runs[b]
    for seed in dict.fromkeys([*ours, *theirs]):
        first, second = ours.get(seed, ours.get(None)), theirs.get(seed, theirs.get(None))
        if first is not None and second is not None:
            yield _Pair(first, second, seed, judged=False)


def _items(pair: _Pair, purpose: Purpose, asked: Mapping[str, Record]) -> Iterator[tuple[int, Item]]:
    """The place of each prompt that both answered, and its item. asked: the prompts, by the answers' ids."""
    others = {answer.id: answer.completion for answer in pair.second.generations}
    for place, answer in enumerate(pair.first.generations):
        ours, theirs = answer.completion, others.get(answer.id)
        if ours is None or theirs is None:
            continue
        whole = asked[answer.id].prompt
        turns = (Message("user", whole),) if isinstance(whole, str) else whole
        answers = [(pair.first.name, pair.seed, ours), (pair.second.name, pair.seed, theirs)]
        yield (
            place,
            Item(
                id=item_id(answer.prompt, answers, purpose, answer.id),
                purpose=purpose,
                prompt_id=answer.id,
                prompt=answer.prompt,
                messages=json.dumps(prompt_as_json(turns), ensure_ascii=False),
                first=pair.first.name,
                second=pair.second.name,
                seed=pair.seed,
                first_completion=ours,
                second_completion=theirs,
            ),
        )


def _margin(pair: _Pair, place: int) -> float:
    """How far apart the judge finds the two answers; infinite where it says nothing."""
    first, second = pair.first, pair.second
    if pair.judged and first.preferences:
        preference = first.preferences[place]
        return float("inf") if preference is None else abs(preference - 0.5)
    if not first.scores or not second.scores:
        return float("inf")
    a, b = first.scores[place].score, second.scores[place].score
    return float("inf") if a is None or b is None else abs(a - b)
