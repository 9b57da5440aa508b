"""What the evaluation of one method leaves on disk: generations.jsonl and scores.jsonl (of a judge that saw the
opponent's answers, preferences.jsonl), joined by id, and measures.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from trimtab.errors import TrimtabError
from trimtab.evaluation.task_scores import TaskScores
from trimtab.files import read_json, write_json, write_text
from trimtab.json_types import JsonObject

SCORES, PREFERENCES = "scores.jsonl", "preferences.jsonl"
AGAIN = "Remove {}, and the same command makes it anew."


class Answer(Protocol):
    """One completion as metrics read it. What is not known of it is None: a file of another tool may hold scores
    alone. tokens: with the one that ends the turn. terminated: whether that was reached."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def completion(self) -> str | None: ...
    @property
    def tokens(self) -> int | None: ...
    @property
    def terminated(self) -> bool | None: ...
    @property
    def characters(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An Answer that trimtab did not generate. prompt: "" where it is not known."""

    id: str
    prompt: str = ""
    completion: str | None = None
    tokens: int | None = None
    terminated: bool | None = None
    characters: int | None = None


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    id: str


class Generation(_Row):
    """One completion; `tokens` counts the end-of-turn token, `terminated` says that it was reached."""

    prompt: str
    completion: str
    tokens: int
    terminated: bool

    @property
    def characters(self) -> int:
        """Of the completion."""
        return len(self.completion)


class Score(_Row):
    """The judge's score of one completion: None with a reason where it failed, never a number."""

    score: float | None
    reason: str | None = None
    breakdown: JsonObject = {}


@dataclass
class MethodOutputs:
    """Everything measured of one method. `scores` may be empty (not judged); otherwise one a generation.

    preferences: where a judge saw both answers, the share of each prompt that the method won, 0 to 1; None where it
    is missing. Empty: scores say who won. judgements: what is known of each preference, such as the shares in
    both orders; empty where nothing is. opponent: one of its own, where the opponent answered anew for each method.
    is_opponent: whether it is itself what the others are compared with, so that it has no win rate.
    """

    name: str
    generations: Sequence[Answer]
    scores: list[Score] = field(default_factory=list)
    perplexity: float | None = None
    bits_per_byte: float | None = None
    warnings: list[str] = field(default_factory=list)
    """Of its making, whether now or when it was made."""
    preferences: list[float | None] = field(default_factory=list)
    opponent: MethodOutputs | None = None
    judgements: list[Score] = field(default_factory=list)
    tasks: Sequence[TaskScores] = ()
    """Of standard tasks, where it was asked some."""
    second_scores: dict[str, list[Score]] = field(default_factory=dict)
    """By the name of each second judge: its score of each generation."""
    is_opponent: bool = False

    def judge_by(self, judgements: Sequence[Score]) -> None:
        """Takes these as its preferences, in the order of its generations."""
        self.judgements = list(judgements)
        self.preferences = [judgement.score for judgement in judgements]


class Measured(BaseModel):
    """measures.json: what is not in the rows."""

    perplexity: float | None = None
    bits_per_byte: float | None = None
    seconds: float = 0.0


def read_measured(folder: Path) -> Measured:
    """What measures.json of an evaluation's folder holds. TrimtabError where it is missing or damaged."""
    file = folder / "measures.json"
    try:
        return Measured.model_validate(read_json(file, AGAIN.format(folder)))
    except ValidationError as error:
        raise TrimtabError(f"{file}: is damaged: {error.errors()[0]['msg']}. {AGAIN.format(folder)}") from None


def write_measured(folder: Path, measured: Measured) -> None:
    """Writes measures.json into an evaluation's folder."""
    write_json(folder / "measures.json", measured.model_dump())


RowT = TypeVar("RowT", Generation, Score)


def write_rows(path: Path, rows: Iterable[Generation | Score]) -> None:
    """Write one JSON object a line; ids must be unique."""
    rows = list(rows)
    check_unique([row.id for row in rows], str(path))
    lines = [row.model_dump_json() + "\n" for row in rows]
    write_text(path, "".join(lines))


def _read(path: Path, model: type[RowT]) -> list[RowT]:
    rows = []
    # Not splitlines(): U+2028 and its like are legal inside a JSON string.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        rows.append(_row(line, model, f"{path}:{number}"))
    check_unique([row.id for row in rows], str(path))
    return rows


def _row(line: str | bytes, model: type[RowT], where: str) -> RowT:
    try:
        return model.model_validate(json.loads(line))
    except (ValidationError, ValueError) as error:
        raise TrimtabError(f"{where}: {error}") from None


def read_generation(line: str | bytes, where: str) -> Generation:
    """A line's completion. TrimtabError, with where it is, where it is none."""
    return _row(line, Generation, where)


def read_generations(path: Path) -> list[Generation]:
    """Every completion of the file. TrimtabError, with the line, where one cannot be read or an id comes twice."""
    return _read(path, Generation)


def read_scores(path: Path) -> list[Score]:
    """Every score of the file, missing ones too. TrimtabError as of `read_generations`."""
    return _read(path, Score)


def _some(ids: Iterable[str]) -> str:
    listed = sorted(ids)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def check_unique(ids: Sequence[str], where: str) -> None:
    """TrimtabError, with the ids, where one comes twice."""
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise TrimtabError(f"{where}: duplicated id {_some(twice)}")


def check_same(ids: Sequence[str], expected: Sequence[str], where: str) -> None:
    """TrimtabError where an id lacks, is unexpected, or comes twice. Their order is free."""
    check_unique(ids, where)
    lacking, extra = set(expected) - set(ids), set(ids) - set(expected)
    if lacking:
        raise TrimtabError(f"{where}: no row for id {_some(lacking)}")
    if extra:
        raise TrimtabError(f"{where}: unexpected id {_some(extra)}")


def align(outputs: MethodOutputs, template: Sequence[Answer]) -> MethodOutputs:
    """The same outputs in the order of `template`; ids and prompts must be the same ones."""
    order = [g.id for g in template]
    check_same([g.id for g in outputs.generations], order, f"generations of {outputs.name}")
    by_id = {g.id: g for g in outputs.generations}
    for g in template:
        if by_id[g.id].prompt != g.prompt:
            raise TrimtabError(f"generations of {outputs.name}: id {g.id} has another prompt")
    ids = [g.id for g in outputs.generations]
    preferred = dict(zip(ids, outputs.preferences, strict=False))
    judged = dict(zip(ids, outputs.judgements, strict=False))
    return replace(
        outputs,
        generations=[by_id[i] for i in order],
        scores=_aligned(outputs.scores, order, outputs.name),
        second_scores={
            judge: _aligned(scores, order, f"{outputs.name} by {judge}")
            for judge, scores in outputs.second_scores.items()
        },
        preferences=[preferred[i] for i in order] if outputs.preferences else [],
        judgements=[judged[i] for i in order] if outputs.judgements else [],
        opponent=outputs.opponent and align(outputs.opponent, template),
    )


def _aligned(scores: Sequence[Score], order: Sequence[str], whose: str) -> list[Score]:
    """The scores in the order of these ids; none where nothing was scored."""
    if not scores:
        return []
    check_same([s.id for s in scores], order, f"scores of {whose}")
    by_id = {s.id: s for s in scores}
    return [by_id[i] for i in order]
