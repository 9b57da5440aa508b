"""What was asked, beside the completions: whole prompts and the rows' other columns, so that a comparison of these
completions knows the instructions and conversations that they answer.

FOLDER/asked.jsonl    a line a prompt: its id, as in generations.jsonl; prompt: text, or messages; tools and
                      chat_template_kwargs, where it has some; columns: the row's other ones

No stage and no evaluation depends on this file: it is written where it lacks, or says something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.data.fields import BadRowError, template_values_of, tools_of, turns_of
from trimtab.data.message import Prompt, context_columns, conversation, prompt_as_json
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.files import write_text
from trimtab.json_types import JsonObject, JsonValue

FILE = "asked.jsonl"


@dataclass(frozen=True)
class AskedPrompt:
    """One prompt, whole: text or turns. columns: the row's other columns."""

    prompt: Prompt
    columns: Mapping[str, JsonValue] = field(default_factory=dict)


def write_asked(folder: Path, records: Sequence[Record]) -> None:
    """Writes the folder's file for the rows that are answered in it, whose places are the ids."""
    text = "".join(_line(str(place), record) for place, record in enumerate(records))
    file = folder / FILE
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)


def _line(key: str, record: Record) -> str:
    row = {"id": key, "prompt": prompt_as_json(record.prompt), **context_columns(record.prompt)}
    # A date of a Parquet file, say, is no JSON: as text it can still be read.
    return json.dumps({**row, "columns": dict(record.columns)}, default=str) + "\n"


def read_asked(folder: Path) -> dict[str, AskedPrompt]:
    """By id; empty where the folder has no such file, as one of an earlier version. TrimtabError, with the line,
    where it is damaged."""
    file = folder / FILE
    if not file.is_file():
        return {}
    found = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[row["id"]] = AskedPrompt(_prompt(row), row["columns"])
        except (BadRowError, ValueError, KeyError, TypeError) as error:
            why = str(error).rstrip(".")
            raise TrimtabError(
                f"{file}:{number}: is damaged: {why}. Remove it; the command that made it writes it anew."
            ) from None
    return found


def _prompt(row: JsonObject) -> Prompt:
    value = row["prompt"]
    if isinstance(value, str):
        return value
    values = template_values_of(row.get("chat_template_kwargs"))
    return conversation(turns_of(value, "prompt"), tools_of(row.get("tools")), values)
