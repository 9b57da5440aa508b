"""What stands in a row's columns -> checked values: text, turns, numbers, labels.

Errors here name the column; records.py puts file and row before them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import TrimtabError

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""OpenAI's names and ShareGPT's -> ours."""
DIALOGUE = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


class BadRowError(TrimtabError):
    """A row that cannot be read: its message says which, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


TEXT_OR_TURNS = "text or a list of messages"
Turns = tuple[Message, ...]
Prompt = str | Turns


def text_of(value: Any, column: str, wanted: str = "text") -> str:
    if not isinstance(value, str):
        raise BadRowError(f"column {column!r} must be {wanted}, found {_kind(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRowError(f"column {column!r} holds a lone surrogate, which is no text.") from None
    return value


def number_of(value: Any, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRowError(f"column {column!r} must be a number, found {_kind(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRowError(f"column {column!r} must be a finite number, found {number}.")
    return number


def label_of(value: Any, column: str = "label") -> bool:
    if not isinstance(value, bool):
        raise BadRowError(
            f"column {column!r} beside a completion is KTO's: true (desirable) or false, found {_kind(value)}. "
            "Mend it, or give the column another name."
        )
    return value


def prompt_of(value: Any, column: str) -> Prompt:
    return turns_of(value, column) if isinstance(value, list) else text_of(value, column, TEXT_OR_TURNS)


def answer_of(value: Any, column: str) -> str:
    """The assistant's text: as it is, as a message, or as a conversation of one turn."""
    if isinstance(value, Mapping) and ({"role", "content"} <= set(value) or {"from", "value"} <= set(value)):
        value = [value]
    if isinstance(value, list):
        return last_answer(turns_of(value, column), column)
    return text_of(value, column, TEXT_OR_TURNS)


def turns_of(value: Any, column: str) -> Turns:
    """Messages of role and content, or ShareGPT's of from and value."""
    if not isinstance(value, list):
        raise BadRowError(f"column {column!r} must be a list of messages, found {_kind(value)}.")
    if not value:
        raise BadRowError(f"column {column!r} is a conversation without messages.")
    return tuple(_turn(message, column) for message in value)


def _turn(message: Any, column: str) -> Message:
    found = set(message) if isinstance(message, Mapping) else set()
    # Parquet fills the keys that a message lacks with null: {role, content, from: null, value: null}.
    for who, what in (("from", "value"), ("role", "content")):
        if {who, what} <= found and (who == "role" or message[who] is not None):
            role = text_of(message[who], f"{column}.{who}")
            if role not in ROLES:
                raise BadRowError(f"column {column!r}: unknown role {role!r}. Known: {', '.join(ROLES)}.")
            return Message(ROLES[role], text_of(message[what], f"{column}.{what}"))
    raise BadRowError(f"column {column!r}: each message needs 'role' and 'content', or 'from' and 'value'.")


def last_answer(turns: Turns, column: str) -> str:
    """The text of the one assistant turn that is left once the prompt is taken away."""
    if len(turns) != 1 or turns[0].role != "assistant":
        found = " → ".join(turn.role for turn in turns) or "nothing"
        raise BadRowError(f"column {column!r} must be one assistant turn after the prompt, found {found}.")
    return turns[0].content


def dialogue_turns(text: str) -> Prompt:
    """Text written as "Human: … Assistant: …" (Anthropic's HH) -> turns; any other text as it is.

    An assistant's turn at the end that says nothing is the place of the completion, and left out.
    """
    marks = list(DIALOGUE.finditer(text))
    if not marks or marks[0].start() != 0 or marks[0][1] != "Human":
        return text
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    said = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    roles = ["user" if mark[1] == "Human" else "assistant" for mark in marks]
    if roles[-1] == "assistant" and not said[-1]:
        roles.pop()
    return tuple(Message(role, content) for role, content in zip(roles, said, strict=False))


def disorder(turns: Sequence[Message]) -> str | None:
    """What is wrong with a prompt's turns, or None: system first, then user and assistant in turn, none empty.

    A tool's turn follows the assistant's or another tool's. Chat templates render such prompts without a
    word, or as something else; the model would learn a conversation that nobody had.
    """
    before = "start"
    follows = {
        "start": {"system", "user"},
        "system": {"user"},
        "user": {"assistant"},
        "assistant": {"user", "tool"},
        "tool": {"assistant", "tool", "user"},
    }
    for turn in turns:
        if turn.role not in follows[before]:
            return "turns out of order"
        if not turn.content.strip() and turn.role != "system":
            return "empty turn"
        before = turn.role
    return None if before in ("user", "tool") else "turns out of order"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
