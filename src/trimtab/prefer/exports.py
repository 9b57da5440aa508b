"""Votes in the files of others: `trimtab prefer --export FORMAT --out FILE votes.sqlite`.

Pairs and KTO's labels are of items, on which persons count as their mean (data/vote_rows.py). LMArena's, Label
Studio's and Argilla's files hold every judgement, with who said it and what stood where. trimtab reads all of them
back: as data to train on (data/layouts.py), and those that name methods as labels (readers/labels.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid5

from trimtab.data.vote_file import CastVote, read_votes
from trimtab.data.vote_rows import JudgedItem, judged_items, label_rows, messages_of, pair_row
from trimtab.errors import TrimtabError
from trimtab.files import write_text
from trimtab.json_types import JsonObject, JsonValue

TIED = {"both good": "tie", "both bad": "tie (bothbad)"}
"""LMArena's names."""


@dataclass(frozen=True)
class Exported:
    """rows: how many were written. even: items on which persons are even: a format of pairs leaves them out."""

    rows: int
    even: int = 0


def trl(judged: Sequence[JudgedItem]) -> list[JsonObject]:
    """TRL's preference layout, with where each pair is from."""
    return [row for one in judged if (row := pair_row(one)) is not None]


def kto(judged: Sequence[JudgedItem]) -> list[JsonObject]:
    """TRL's unpaired preferences."""
    return [row for one in judged for row in label_rows(one)]


def openai(judged: Sequence[JudgedItem]) -> list[JsonObject]:
    """OpenAI's preference fine-tuning: these three keys, and no others."""
    return [
        {
            "input": {"messages": row["prompt"], "tools": [], "parallel_tool_calls": True},
            "preferred_output": row["chosen"],
            "non_preferred_output": row["rejected"],
        }
        for row in trl(judged)
    ]


def lmarena(judged: Sequence[JudgedItem]) -> list[JsonObject]:
    """A row for each judgement, in the columns of lmsys/chatbot_arena_conversations; a stood left."""
    return [_battle(vote) for one in judged for vote in one.votes]


def _battle(vote: CastVote) -> JsonObject:
    (method_a, text_a), (method_b, text_b) = _sides(vote)
    asked = messages_of(vote.item)
    winner = {"left": "model_a", "right": "model_b"}.get(vote.verdict) or TIED[vote.verdict]
    return {
        "question_id": vote.item.prompt_id,
        "model_a": method_a,
        "model_b": method_b,
        "winner": winner,
        "judge": vote.person,
        "conversation_a": [*asked, _said(text_a)],
        "conversation_b": [*asked, _said(text_b)],
        "turn": sum(isinstance(turn, dict) and turn.get("role") == "user" for turn in asked),
        "anony": True,
        "language": "unknown",
        "tstamp": datetime.fromisoformat(vote.time).timestamp(),
        **_beside(vote),
    }


def _beside(vote: CastVote) -> JsonObject:
    """What no other format has a place for."""
    return {
        "seed": vote.item.seed,
        "random": vote.item.purpose == "random",
        "purpose": vote.item.purpose,
        "item": vote.item.id,
        "repeated": vote.repeated,
        "reasons": json.loads(vote.reasons),
        "note": vote.note,
        "milliseconds": vote.milliseconds,
    }


def _sides(vote: CastVote) -> tuple[tuple[str, str], tuple[str, str]]:
    """Method and text of what stood left, and of what stood right."""
    item = vote.item
    first, second = (item.first, item.first_completion), (item.second, item.second_completion)
    return (second, first) if vote.swapped else (first, second)


def _said(text: str) -> JsonValue:
    return {"role": "assistant", "content": text}


LABEL_STUDIO_CONFIG = """<View>
  <Header value="Which answer is better?"/>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="comparison" toName="answer1,answer2"/>
  <Text name="answer1" value="$answer1"/>
  <Text name="answer2" value="$answer2"/>
  <Choices name="tie" toName="prompt" choice="single">
    <Choice value="both good"/>
    <Choice value="both bad"/>
  </Choices>
</View>
"""
"""The labelling interface that the exported tasks are for: paste it in the project's settings."""


def label_studio(judged: Sequence[JudgedItem]) -> list[JsonObject]:
    """Label Studio's JSON: a task for each judgement, for who judged may have seen the sides swapped."""
    votes = [vote for one in judged for vote in one.votes]
    return [{"id": number, **_task(vote)} for number, vote in enumerate(votes, start=1)]


def _task(vote: CastVote) -> JsonObject:
    (method_1, text_1), (method_2, text_2) = _sides(vote)
    if vote.verdict in ("left", "right"):
        result: JsonObject = {
            "type": "pairwise", "from_name": "comparison", "to_name": "comparison",
            "value": {"selected": vote.verdict},
        }  # fmt: skip
    else:
        result = {
            "type": "choices", "from_name": "tie", "to_name": "prompt", "value": {"choices": [vote.verdict]},
        }  # fmt: skip
    return {
        "data": {
            "prompt_id": vote.item.prompt_id,
            "prompt": vote.item.prompt,
            "messages": messages_of(vote.item),
            "answer1": text_1,
            "answer2": text_2,
            "method_left": method_1,
            "method_right": method_2,
            "person": vote.person,
            **_beside(vote),
        },
        "annotations": [
            {
                "result": [{"id": vote.vote_id[:10], "origin": "manual"} | result],
                "was_cancelled": False,
                "lead_time": None if vote.milliseconds is None else vote.milliseconds / 1000,
                "created_at": vote.time,
            }
        ],
    }


def argilla(judged: Sequence[JudgedItem]) -> list[JsonObject]:
    """Argilla's records.json, as its Dataset.to_disk writes it: one for each judgement."""
    return [_record(vote) for one in judged for vote in one.votes]


PERSONS = UUID("5f0a9d52-7c55-4a0e-9d0b-7a3f4d1c2b60")
"""Where persons' names become the ids that Argilla asks for."""


def _record(vote: CastVote) -> JsonObject:
    (method_1, text_1), (method_2, text_2) = _sides(vote)
    kept = {name: value for name, value in _beside(vote).items() if value is not None and name != "reasons"}
    return {
        "id": vote.vote_id,
        "status": "completed",
        "fields": {"prompt": messages_of(vote.item), "response1": text_1, "response2": text_2},
        "metadata": {
            "prompt_id": vote.item.prompt_id, "method_left": method_1, "method_right": method_2,
            "person": vote.person, **kept,
        },
        "suggestions": {},
        "responses": {"preference": [{"value": vote.verdict, "user_id": str(uuid5(PERSONS, vote.person))}]},
        "vectors": {},
    }  # fmt: skip


@dataclass(frozen=True)
class Format:
    """write: rows of judged items. ending: of its files: JSON lines, or a list in .json. pairs: whether items on
    which persons are even have no row."""

    write: Callable[[Sequence[JudgedItem]], list[JsonObject]]
    ending: str = ".jsonl"
    pairs: bool = False


FORMATS = {
    "trl": Format(trl, pairs=True),
    "kto": Format(kto, pairs=True),
    "openai": Format(openai, pairs=True),
    "lmarena": Format(lmarena),
    "label-studio": Format(label_studio, ".json"),
    "argilla": Format(argilla, ".json"),
}


def check_export(format_name: str, out: Path) -> Format:
    """TrimtabError for a format that is none, or a file of another ending."""
    if format_name not in FORMATS:
        raise TrimtabError(f"--export {format_name}: known are {', '.join(FORMATS)}.")
    found = FORMATS[format_name]
    if out.suffix != found.ending:
        raise TrimtabError(f"--out {out}: {format_name} is written as {found.ending}.")
    return found


def export_votes(votes: Path, format_name: str, out: Path, without: Sequence[str] = ()) -> Exported:
    """Writes a file of votes in the format of others, whole or not at all. without: persons whose votes are left
    out. TrimtabError for an unknown format or person, and where nothing is left to write."""
    found = check_export(format_name, out)
    cast = read_votes(votes)
    persons = {vote.person for vote in cast}
    if unknown := [name for name in without if name not in persons]:
        raise TrimtabError(f"--without {unknown[0]}: did not vote. Those who did: {', '.join(sorted(persons))}.")
    judged = judged_items([vote for vote in cast if vote.person not in without])
    rows = found.write(judged)
    if not rows:
        raise TrimtabError(f"{votes}: no votes that could be written as {format_name}.")
    if found.ending == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    even = sum(not found.write([one]) for one in judged) if found.pairs else 0
    return Exported(len(rows), even)
