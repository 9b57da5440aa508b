"""Any supported layout -> Record(prompt, completions, scores).

Read: JSONL, JSON, Parquet, or a hub data set. Layouts: TRL's preference (prompt, chosen, rejected;
the prompt may be implicit), prompt-completion (prompt, completion) and prompt-only, each standard (strings)
or conversational (lists of messages); UltraFeedback's own (instruction with several scored
completions). A row that fits none is an error that names file, row and what to do.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError

LAYOUTS = (
    "prompt+chosen+rejected, chosen+rejected (conversations that share their beginning), prompt+completion, "
    "prompt alone (GRPO), or instruction+completions (UltraFeedback)"
)
ROLES = ("system", "user", "assistant", "tool")
OWN_COLUMNS = {"prompt", "completion", "completions", "completion_ids"}
"""Columns whose names stand for the policy's own in a call of a reward function."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One prompt with its completions, best first where they are ranked.

    prompt: a plain string, or the turns before the completion.
    completions: text of the assistant's turn; (chosen, rejected) for a preference pair; none for a prompt alone.
    scores: one per completion where the data has them.
    origin: file and row, "train.jsonl:17", for messages.
    columns: the row's other columns, which reward functions get by name.
    """

    prompt: str | tuple[Message, ...]
    completions: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    origin: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_pair(self) -> bool:
        return len(self.completions) >= 2

    @property
    def prompt_text(self) -> str:
        """The last user turn, or the prompt itself."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1].content


class BadRowError(TrimtabError):
    """A row that cannot be read: its message says which, what is wrong and what to do."""


def read_records(source: str, split: str = "train", config: str | None = None) -> list[Record]:
    """All rows of a file, or of a hub data set, as Records."""
    path = Path(os.path.expanduser(source))
    if path.is_file():
        rows = _rows_of_file(path)
        name = path.name
    elif path.exists() or path.suffix in _READERS or source.startswith((".", "/", "~")):
        raise TrimtabError(
            f"data {source}: no such file. Give a .jsonl, .json or .parquet file, or the name of a hub data set."
        )
    else:
        rows = _rows_of_hub(source, split, config)
        name = f"{source}/{split}"
    records = []
    for number, row in rows:
        record = to_record(row, f"{name}:{number}")
        records.append(replace(record, columns={k: v for k, v in row.items() if k not in OWN_COLUMNS}))
    if not records:
        raise TrimtabError(f"data {source}: it holds no rows.")
    return records


def _rows_of_file(path: Path) -> Iterator[tuple[int, Any]]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TrimtabError(f"data {path}: unknown kind of file. Known: {', '.join(_READERS)}.")
    if path.stat().st_size == 0:
        raise TrimtabError(f"data {path}: the file is empty.")
    return reader(path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise BadRowError(
                    f"{path.name}:{number}: not UTF-8 text ({error.reason}). Save it as UTF-8."
                ) from None
            except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits too
                raise BadRowError(
                    f"{path.name}:{number}: not valid JSON ({error}). Mend or remove the line."
                ) from None


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRowError(f"{path.name}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"{path.name}: not valid JSON ({error}). One object a line is .jsonl.") from None
    if not isinstance(rows, list):
        raise BadRowError(f"{path.name}: expected a list of rows, found {type(rows).__name__}.")
    yield from enumerate(rows, start=1)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8, odd dates
        raise BadRowError(f"{path.name}: not a readable Parquet file ({error}). Write it anew.") from None
    yield from enumerate(rows, start=1)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _rows_of_hub(name: str, split: str, config: str | None) -> Iterator[tuple[int, Any]]:
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many kinds; each means that there is no data
        raise TrimtabError(
            f"data {name} (split {split}): no such file, and the hub could not give it "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}). "
            "Check the name and the split, or give a .jsonl, .json or .parquet file."
        ) from None
    yield from enumerate(data, start=1)


def to_record(row: Any, origin: str) -> Record:
    """One row in any supported layout -> Record, or BadRowError."""
    if not isinstance(row, Mapping):
        raise BadRowError(f"{origin}: expected an object with named columns, found {type(row).__name__}.")
    has = {key for key, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= has:
        return _preference(row, origin)
    if {"prompt", "completion"} <= has:
        prompt = _prompt(row["prompt"], "prompt", origin)
        return Record(prompt, (_answer(row["completion"], "completion", origin),), None, origin)
    if {"instruction", "completions"} <= has:
        return _ultrafeedback(row, origin)
    if "prompt" in has and not {"chosen", "rejected", "completion"} & set(row):
        return Record(_prompt(row["prompt"], "prompt", origin), (), None, origin)
    for present, missing in (("chosen", "rejected"), ("rejected", "chosen"), ("completion", "prompt")):
        if present in has:
            raise BadRowError(f"{origin}: column {missing!r} is missing or null. {_columns(row)}")
    raise BadRowError(f"{origin}: no known layout. {_columns(row)}")


def _columns(row: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} (null)" if value is None else str(name) for name, value in row.items())
    return f"Columns found: {found or 'none'}. A row needs {LAYOUTS}."


def _preference(row: Mapping[str, Any], origin: str) -> Record:
    scores = _scores(row, origin)
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        # Conversations may repeat the prompt's turns: what both share is the prompt.
        left, right = _turns(chosen, "chosen", origin), _turns(rejected, "rejected", origin)
        given = None if row.get("prompt") is None else _prompt(row["prompt"], "prompt", origin)
        prompt: str | tuple[Message, ...] | None = given
        if isinstance(given, tuple):
            left, right = _without(given, left), _without(given, right)
        else:
            # A prompt that is text repeats the first user turn, or stands for conversations that lack one.
            shared, left, right = _split_shared(left, right, origin)
            prompt = shared or given
        if prompt is None:
            raise BadRowError(f"{origin}: column 'prompt' is missing and nothing is shared. {_columns(row)}")
        return Record(prompt, (_last(left, "chosen", origin), _last(right, "rejected", origin)), scores, origin)
    if row.get("prompt") is None:
        raise BadRowError(f"{origin}: column 'prompt' is missing or null. {_columns(row)}")
    prompt_value = _prompt(row["prompt"], "prompt", origin)
    return Record(
        prompt_value,
        (_answer(chosen, "chosen", origin), _answer(rejected, "rejected", origin)),
        scores,
        origin,
    )


def _ultrafeedback(row: Mapping[str, Any], origin: str) -> Record:
    """openbmb/UltraFeedback: several completions with overall scores; best first."""
    if not isinstance(row["completions"], list) or not row["completions"]:
        raise BadRowError(f"{origin}: column 'completions' must be a list of completions that is not empty.")
    answers: list[tuple[float, str]] = []
    for item in row["completions"]:
        if not isinstance(item, Mapping) or not isinstance(item.get("response"), str):
            raise BadRowError(f"{origin}: each of 'completions' needs a text 'response'.")
        score = next((item[k] for k in ("overall_score", "fine-grained_score") if item.get(k) is not None), None)
        answers.append((_number(score, "overall_score", origin), _text(item["response"], "response", origin)))
    answers.sort(key=lambda answer: -answer[0])
    prompt = _prompt(row["instruction"], "instruction", origin)
    return Record(prompt, tuple(text for _, text in answers), tuple(score for score, _ in answers), origin)


def _scores(row: Mapping[str, Any], origin: str) -> tuple[float, ...] | None:
    metadata = row.get("metadata")
    where = metadata if isinstance(metadata, Mapping) and "score_chosen" in metadata else row
    chosen, rejected = where.get("score_chosen"), where.get("score_rejected")
    if chosen is None or rejected is None:
        return None
    return _number(chosen, "score_chosen", origin), _number(rejected, "score_rejected", origin)


def _number(value: Any, column: str, origin: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRowError(f"{origin}: column {column!r} must be a number, found {_kind(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRowError(f"{origin}: column {column!r} must be a finite number, found {number}.")
    return number


def _prompt(value: Any, column: str, origin: str) -> str | tuple[Message, ...]:
    if isinstance(value, list):
        return _turns(value, column, origin)
    return _text(value, column, origin)


def _answer(value: Any, column: str, origin: str) -> str:
    if isinstance(value, list):
        return _last(_turns(value, column, origin), column, origin)
    return _text(value, column, origin)


def _text(value: Any, column: str, origin: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"{origin}: column {column!r} must be text or a list of messages, found {_kind(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRowError(f"{origin}: column {column!r} holds a lone surrogate, which is no text.") from None
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _turns(value: list[Any], column: str, origin: str) -> tuple[Message, ...]:
    if not value:
        raise BadRowError(f"{origin}: column {column!r} is a conversation without messages.")
    turns = []
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise BadRowError(f"{origin}: column {column!r}: each message needs 'role' and 'content'.")
        role = _text(message["role"], f"{column}.role", origin)
        if role not in ROLES:
            raise BadRowError(f"{origin}: column {column!r}: unknown role {role!r}. Known: {', '.join(ROLES)}.")
        turns.append(Message(role, _text(message["content"], f"{column}.content", origin)))
    return tuple(turns)


def _last(turns: tuple[Message, ...], column: str, origin: str) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        found = " → ".join(turn.role for turn in turns) or "nothing"
        raise BadRowError(
            f"{origin}: column {column!r} must be one assistant turn after the prompt, found {found}."
        )
    return turns[0].content


def _without(prompt: tuple[Message, ...], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    return turns[len(prompt) :] if turns[: len(prompt)] == prompt and len(turns) > len(prompt) else turns


def _split_shared(
    left: tuple[Message, ...], right: tuple[Message, ...], origin: str
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """An implicit prompt is all but the last turn, and must be the same on both sides."""
    if left[:-1] != right[:-1]:
        raise BadRowError(f"{origin}: 'chosen' and 'rejected' do not share the turns before their last.")
    return left[:-1], left[-1:], right[-1:]
