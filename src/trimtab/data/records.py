"""Any supported layout -> Record(prompt, completions, scores, labels).

The layouts are a table in layouts.py, the kinds of source in files.py. A row that fits no layout is an error that
names file, row and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from trimtab.data.fields import (
    BadRowError,
    UnusableRowError,
    dialogue_turns,
    has_value,
    json_of,
    messages_of,
    template_values_of,
    text_of,
    tools_of,
    unread_keys,
)
from trimtab.data.files import Line, rows_of
from trimtab.data.layouts import Layout, Row, describe_columns, layout_of
from trimtab.data.message import Message, Prompt, Turns, conversation
from trimtab.data.settings import Settings
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.progress import Progress

__all__ = ["BadRowError", "Message", "ReadingSettings", "Record", "columns_of", "read_records", "to_record"]

OWN_COLUMNS = {"prompt", "completion", "completions", "completion_ids"}
"""Columns whose names stand for the policy's own in a call of a reward function."""


class ReadingSettings(Settings):
    """How rows are read."""

    columns: dict[str, str] = Field(default_factory=dict)
    """What the columns are called in the data, by trimtab's names: {prompt: question, chosen: response_a}."""

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, value: dict[str, str]) -> dict[str, str]:
        names = list(value.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"column {twice[0]!r} cannot be two of trimtab's at once")
        return value

    dialogue: Literal["turns", "text"] = "turns"
    """Texts written as "Human: … Assistant: …", or as messages in JSON: made into turns, or left as the text that
    they are."""
    bad_rows: Literal["stop", "drop"] = "stop"
    """A row that cannot be read ends the run, or is dropped and counted."""


@dataclass(frozen=True, slots=True)
class Record:
    """One prompt with its completions, best first where they are ranked.

    prompt: a plain string, or the turns before the completion.
    completions: text of the assistant's turn; (chosen, rejected) for a preference pair; none for a prompt alone.
    scores: one per completion where the data has them.
    origin: file and row, "train.jsonl:17", for messages.
    columns: the row's other columns, which reward functions get by name.
    labels: KTO's, one per completion: whether it is desirable. ValueError where their number differs.
    layout: the name of the layout that the row had.
    prompts: one for each completion, where they differ (data/conditions.py).
    condition: the score that the completions are asked for, which the chat template writes into the prompt.
    ignored: what the row holds and nothing reads: "column id", "key weight of messages", …
    """

    prompt: Prompt
    completions: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    origin: str = ""
    columns: Mapping[str, JsonValue] = field(default_factory=dict, compare=False, repr=False)
    labels: tuple[bool, ...] | None = None
    layout: str = field(default="", compare=False, repr=False)
    prompts: tuple[Prompt, ...] | None = None
    condition: float | None = None
    ignored: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.completions):
            raise ValueError(f"{len(self.labels)} labels for {len(self.completions)} completions")

    @property
    def is_pair(self) -> bool:
        """Whether it has a best and a worst completion; a ranking counts as a pair of these."""
        return len(self.completions) >= 2

    @property
    def is_unpaired(self) -> bool:
        """A completion that a label calls good or bad, with nothing to compare it with."""
        return self.labels is not None and not self.is_pair

    @property
    def prompt_text(self) -> str:
        """The last user turn, or the prompt itself."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1].content


class LazyRecords(Sequence[Record]):
    """Records of which each is made when it is asked for."""

    @cached_property
    def column_names(self) -> set[str]:
        """The names of all other columns that any of them has: looked for once."""
        return {name for record in self for name in record.columns}


def columns_of(records: Sequence[Record], among: Sequence[Record] | None = None) -> dict[str, list[JsonValue]]:
    """The records' other columns by name, one value a record: None where it has none. among: all records that these
    are of, whose columns count too; which rows a batch happens to have is no matter."""
    every = among or records
    names = every.column_names if isinstance(every, LazyRecords) else {n for r in every for n in r.columns}
    return {name: [record.columns.get(name) for record in records] for name in sorted(names)}


def read_records(
    source: str,
    split: str = "train",
    config: str | None = None,
    settings: ReadingSettings | None = None,
    bad: list[str] | None = None,
) -> list[Record]:
    """All rows of a file, a folder or a hub data set, as Records.

    bad: takes what is wrong with each row that is left out, "train.jsonl:17: …". Where the settings do not say to
    drop rows that cannot be read, the first is raised.
    """
    name, rows = rows_of(source, split, config)
    reasons = [] if bad is None else bad
    records = []
    with Progress(f"reading {name}", None) as progress:
        for record in records_of(name, rows, settings or ReadingSettings(), reasons):
            records.append(record)
            progress.advance()
    require_records(records, reasons, source)
    return records


def records_of(
    name: str, rows: Iterable[tuple[int | str, object]], settings: ReadingSettings, bad: list[str]
) -> Iterator[Record]:
    """The records of a source's rows. name: what messages call it. bad: takes what is wrong with those left out."""
    for number, row in rows:
        try:
            record = to_record(row, f"{name}:{number}", settings)
        except BadRowError as error:
            if settings.bad_rows == "stop" and not isinstance(error, UnusableRowError):
                raise
            bad.append(str(error))
            continue
        yield record


def require_records(records: Sequence[Record], bad: Sequence[str], source: str) -> None:
    """TrimtabError where a source gave no record at all."""
    if not records and bad:
        raise TrimtabError(f"data {source}: none of its {len(bad)} rows can be read. {bad[0]}")
    if not records:
        raise TrimtabError(f"data {source}: it holds no rows.")


def to_record(row: object, origin: str, settings: ReadingSettings | None = None) -> Record:
    """One row in any supported layout -> Record, or BadRowError.

    row: an object with named columns, a Line of JSONL that holds one, or the BadRowError that stands for a row that
    could not be read.
    """
    settings = settings or ReadingSettings()
    try:
        if isinstance(row, BadRowError):
            raise row
        row = row.row() if isinstance(row, Line) else row
        if not isinstance(row, Mapping):
            raise BadRowError(f"expected an object with named columns, found {type(row).__name__}.")
        row = _decoded(_renamed(row, settings.columns), settings.dialogue == "turns")
        layout = layout_of(row)
        content = layout.read(row)
        prompt = complete_prompt(content.prompt, row.get("system"), settings.dialogue == "turns")
        prompt = _with_tools_and_values(prompt, row)
    except BadRowError as error:
        raise type(error)(f"{origin}: {error}") from None
    others: JsonObject = {key: value for key, value in row.items() if key not in OWN_COLUMNS}
    ignored = (*content.ignored, *_unread(row, layout), *_other_system(prompt, row.get("system")))
    return Record(
        prompt, content.completions, content.scores, origin, others, content.labels, layout.name, ignored=ignored
    )


MESSAGES = ("prompt", "chosen", "rejected", "completion", "messages", "conversations")
"""Columns that may hold messages."""
LISTS = ("messages", "conversations", "completions", "history", "metadata")
"""Columns whose text can only be JSON."""


def _decoded(row: Row, dialogue: bool) -> Row:
    """The row with messages, lists and objects that came as text."""
    decoded = {name: json_of(row[name]) for name in LISTS if isinstance(row.get(name), str)}
    for name in MESSAGES if dialogue else ("messages", "conversations"):
        if isinstance(row.get(name), str):
            decoded[name] = messages_of(row[name], name)
    return row if all(value is row[name] for name, value in decoded.items()) else {**row, **decoded}


def _unread(row: Row, layout: Layout) -> list[str]:
    """What the row holds that nothing reads: columns, and keys of messages."""
    read = layout.reads | {"system", "tools", "chat_template_kwargs"}
    columns = sorted(
        f"column {_shown(name)}" for name, value in row.items() if name not in read and has_value(value)
    )
    keys = set().union(*(unread_keys(row[name]) for name in MESSAGES if name in read and name in row))
    return columns + [f"key {_shown(name)} of messages" for name in sorted(keys)]


def _other_system(prompt: Prompt, system: object) -> list[str]:
    """A column `system` that the prompt's own system turn says otherwise."""
    if not isinstance(prompt, tuple) or not isinstance(system, str) or not system.strip():
        return []
    return [] if prompt[0].content.strip() == system.strip() else ["column system, beside a system turn"]


def _shown(name: object) -> str:
    """A name from the data in a message of one line."""
    return " ".join(str(name).encode("utf-8", "replace").decode().split())[:60]


def _with_tools_and_values(prompt: Prompt, row: Row) -> Prompt:
    """The prompt with the row's tools and its values of the template's variables."""
    tools, values = tools_of(row.get("tools")), template_values_of(row.get("chat_template_kwargs"))
    if not tools and not values:
        return prompt
    turns: Turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return conversation(turns, tools, values)


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns that the settings name under trimtab's names."""
    if not columns:
        return row
    for name, name_in_data in columns.items():
        if name_in_data not in row:
            raise BadRowError(
                f"column {name_in_data!r} (data.columns: {name}, trimtab's name first) is missing. "
                f"{describe_columns(row)}"
            )
    kept = {name: value for name, value in row.items() if name not in columns.values()}
    return kept | {name: row[name_in_data] for name, name_in_data in columns.items()}


def complete_prompt(prompt: Prompt, system: object, dialogue: bool) -> Prompt:
    """Dialogue made into turns, the row's own system prompt in front, and a user's turn at the end."""
    if isinstance(prompt, str) and dialogue:
        prompt = dialogue_turns(prompt)
    if system is not None and (system_text := text_of(system, "system")).strip():
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        prompt = turns if turns[0].role == "system" else (Message("system", system_text), *turns)
    if isinstance(prompt, tuple) and prompt[-1].role not in ("user", "tool"):
        raise BadRowError(
            f"the prompt ends with a turn of role {prompt[-1].role!r}; a completion follows the user's. "
            "Mend or remove the row."
        )
    return prompt
