"""What a judge says when it is asked once more, and of the same answers with harmless padding behind them.

Both are asked of a few answers, spread over prompts and methods, after everything is judged; a judge's card
(judge_card.py) reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from trimtab.data.records import Record, columns_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.estimate import STORED
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.files import read_json, write_json
from trimtab.notices import warn
from trimtab.progress import Progress
from trimtab.rewards.base import OPPONENT_COLUMN, Columns, Prompt, Reward, Scored

PADDING = (
    "\n\nThat is what can be said here. It answers what was asked, and nothing needs to be added to it. Should "
    "anything be left open, it may be asked again at any time."
)
"""Behind an answer it says nothing, and makes it longer."""
HERE, AT_SERVER = 100, 20
"""Answers that are asked about, unless a number is given: of a judge that runs here, and of one on a server."""
FILE = "judge_probes.json"


class Probe(BaseModel):
    """One answer. before, again: the share that it won of its opponent, when judged and when judged once more.
    padded: the share that it wins of itself once PADDING is behind it. None where a score is missing."""

    model_config = STORED
    method: str
    id: str
    before: float
    again: float | None = None
    padded: float | None = None


class _Kept(BaseModel):
    inputs: str
    probes: list[Probe]


@dataclass(frozen=True)
class AskedRows:
    """The prompts behind the answers. prompt: by an answer's id. columns: the data's others, of several ids."""

    prompt: Callable[[str], Prompt]
    columns: Callable[[Sequence[str]], Columns] = lambda ids: {}


def rows_of(records: Sequence[Record]) -> AskedRows:
    """Of an evaluation's records, whose places are the ids."""
    return AskedRows(
        lambda place: records[int(place)].prompt,
        lambda places: columns_of([records[int(place)] for place in places], records),
    )


def rows_by_id(asked: Mapping[str, Record]) -> AskedRows:
    """Of a comparison's prompts, by their ids."""
    every = list(asked.values())
    return AskedRows(lambda key: asked[key].prompt, lambda keys: columns_of([asked[key] for key in keys], every))


@dataclass(frozen=True)
class _Pair:
    method: str
    id: str
    ours: str
    theirs: str
    before: float


def probe_judge(
    judge: Reward,
    methods: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    rows: AskedRows,
    count: int | None = None,
    folder: Path | None = None,
) -> list[Probe]:
    """Asks, or reads what an earlier run kept in the folder for the same judgements.

    methods: each once, judged. count: answers to ask about; None: HERE or AT_SERVER. A judge that fails here costs
    the probes and no more: that is a warning.
    """
    pairs = _pairs(methods, opponent, (AT_SERVER if judge.asks_server else HERE) if count is None else count)
    if not pairs:
        return []
    inputs = hashlib.blake2b(
        repr([judge.signature, PADDING, *pairs]).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()
    file = folder / FILE if folder is not None else None
    if file is not None and (kept := _kept(file, inputs)) is not None:
        return kept
    try:
        with Progress(f"{judge.name} asked again", None):
            probes = _asked(judge, pairs, rows)
    except TrimtabError as error:
        warn(f"judge card: what the judge says when asked again is not known: {error}", about="judge probes")
        return []
    if file is not None:
        write_json(file, _Kept(inputs=inputs, probes=probes).model_dump())
    return probes


def _pairs(methods: Sequence[MethodOutputs], opponent: MethodOutputs | None, count: int) -> list[_Pair]:
    """Spread evenly over prompts, each of another method than the one before."""
    others = [made for made in methods if not made.is_opponent]
    judged = [made for made in others if (made.opponent or opponent) is not None and made.generations]
    if not judged or not count:
        return []
    size = len(judged[0].generations)
    places = sorted({int(place) for place in np.linspace(0, size - 1, min(count, size))})
    chosen = []
    for turn, place in enumerate(places):
        made = judged[turn % len(judged)]
        if (pair := _pair(made, made.opponent or opponent, place)) is not None:
            chosen.append(pair)
    return chosen


def _pair(made: MethodOutputs, opponent: MethodOutputs | None, place: int) -> _Pair | None:
    """None where a text or a judgement is missing, or where the two answers are the same."""
    assert opponent is not None
    ours = made.generations[place]
    at = _place_of(ours.id, opponent, place)
    theirs = None if at is None else opponent.generations[at]
    if at is None or theirs is None or ours.completion is None or theirs.completion in (None, ours.completion):
        return None
    if made.preferences:
        before = made.preferences[place]
    else:
        scores = [side.scores[i].score if side.scores else None for side, i in ((made, place), (opponent, at))]
        before = won(*scores)
    if before is None:
        return None
    return _Pair(made.name, ours.id, ours.completion, str(theirs.completion), before)


def _place_of(answer: str, outputs: MethodOutputs, likely: int) -> int | None:
    """Where an answer's id is; in most outputs at the same place as in all others."""
    if likely < len(outputs.generations) and outputs.generations[likely].id == answer:
        return likely
    return next((i for i, other in enumerate(outputs.generations) if other.id == answer), None)


def won(ours: float | None, theirs: float | None) -> float | None:
    """1, ½ or 0 by two scores; None where one is missing."""
    if ours is None or theirs is None:
        return None
    return 0.5 if ours == theirs else float(ours > theirs)


def _asked(judge: Reward, pairs: Sequence[_Pair], rows: AskedRows) -> list[Probe]:
    ids = [pair.id for pair in pairs]

    def score(reward: Reward, completions: Sequence[str], others: Sequence[str]) -> list[float | None]:
        columns = dict(rows.columns(ids)) | ({OPPONENT_COLUMN: others} if reward.compares else {})
        found: list[Scored] = reward.scored([rows.prompt(one) for one in ids], completions, columns=columns)
        return [one.score for one in found]

    ours, theirs = [pair.ours for pair in pairs], [pair.theirs for pair in pairs]
    padded = [text + PADDING for text in ours]
    again, later = judge.again(), score(judge.again(), ours, theirs)
    if judge.compares:
        longer = score(judge, padded, ours)
    else:
        # Beside the plain ones of the same asking.
        longer = [won(*both) for both in zip(score(again, padded, ours), later, strict=True)]
        later = [won(*both) for both in zip(later, score(again, theirs, ours), strict=True)]
    return [
        Probe(method=pair.method, id=pair.id, before=pair.before, again=one, padded=other)
        for pair, one, other in zip(pairs, later, longer, strict=True)
    ]


def _kept(file: Path, inputs: str) -> list[Probe] | None:
    if not file.is_file():
        return None
    try:
        kept = _Kept.model_validate(read_json(file, "It is made anew."))
    except (TrimtabError, ValidationError):
        return None
    return kept.probes if kept.inputs == inputs else None
