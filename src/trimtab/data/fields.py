"""What stands in a row's columns -> checked values: text, turns, numbers, labels.

Errors here name the column; records.py puts file and row before them.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from trimtab.data.message import CARRIED, Message, Prompt, Turns, as_answer, canonical_json, without_nulls
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue

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


class UnusableRowError(BadRowError):
    """A row that is in order, but holds what no text model can be given: it is left out and counted, whatever
    `bad_rows` says."""


TEXT_OR_TURNS = "text or a list of messages"
TEXT_PARTS = {"text", "input_text", "output_text", None}
"""The types of a content's parts that are text."""
WRITTEN_MESSAGES = re.compile(
    r"""\s*\[?\s*\{\s*(["'])(?:role|content|from|value|""" + "|".join(CARRIED) + r""")\1\s*:"""
)
"""How messages begin that went through CSV, SQL or pandas and came back as text."""


def text_of(value: object, column: str, expected: str = "text") -> str:
    """A column's value where it is text in valid Unicode, else BadRowError. expected: how that calls it."""
    if not isinstance(value, str):
        raise BadRowError(f"column {column!r} must be {expected}, found {_kind(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRowError(f"column {column!r} holds a lone surrogate, which is no text.") from None
    return value


def number_of(value: object, column: str) -> float:
    """A column's value where it is a finite number; BadRowError where it is not. true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRowError(f"column {column!r} must be a number, found {_kind(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRowError(f"column {column!r} must be a finite number, found {number}.")
    return number


def score_of(value: object) -> float | None:
    """A score, also one that is written as text; None for null and for what is no finite number."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", value, re.ASCII):
        value = float(value)
    try:
        return number_of(float(value) if isinstance(value, Decimal) else value, "score")
    except BadRowError:
        return None


def label_of(value: object, column: str = "label") -> bool:
    """KTO's label of a completion, true where it is desirable; BadRowError for anything but true and false."""
    if not isinstance(value, bool):
        raise BadRowError(
            f"column {column!r} beside a completion is KTO's: true (desirable) or false, found {_kind(value)}. "
            "Mend it, or give the column another name."
        )
    return value


def prompt_of(value: object, column: str) -> Prompt:
    """The prompt that a column holds, text or a list of messages; BadRowError where it is neither."""
    return turns_of(value, column) if isinstance(value, list) else text_of(value, column, TEXT_OR_TURNS)


def answer_of(value: object, column: str) -> str:
    """The assistant's text: as it is, as a message, or as a conversation of one turn."""
    if isinstance(value, Mapping) and ({"role", "content"} <= set(value) or {"from", "value"} <= set(value)):
        value = [value]
    if isinstance(value, list):
        return last_answer(turns_of(value, column), column)
    return text_of(value, column, TEXT_OR_TURNS)


def turns_of(value: object, column: str) -> Turns:
    """Messages of role and content, or ShareGPT's of from and value."""
    if not isinstance(value, list):
        raise BadRowError(f"column {column!r} must be a list of messages, found {_kind(value)}.")
    if not value:
        raise BadRowError(f"column {column!r} is a conversation without messages.")
    return tuple(_turn(message, column) for message in value)


def _turn(value: object, column: str) -> Message:
    message: Mapping[str, JsonValue] = value if isinstance(value, Mapping) else {}
    # Parquet fills the keys that a message lacks with null: {role, content, from: null, value: null}.
    for who, what in (("from", "value"), ("role", "content")):
        # A call of tools may stand without a content.
        complete = {who, what} <= set(message) or (who in message and bool(message.get("tool_calls")))
        if complete and (who == "role" or message[who] is not None):
            role = text_of(message[who], f"{column}.{who}")
            if role not in ROLES:
                raise BadRowError(f"column {column!r}: unknown role {role!r}. Known: {', '.join(ROLES)}.")
            extras = _extras(message, column)
            content = _content(message.get(what), f"{column}.{what}", empty="tool_calls" in extras)
            return Message(ROLES[role], content, _json(extras, column) if extras else "")
    raise BadRowError(f"column {column!r}: each message needs 'role' and 'content', or 'from' and 'value'.")


def _content(value: object, column: str, empty: bool) -> str:
    """Text, or the text of a list of parts. empty: whether it may be null, beside a call of tools."""
    if value is None and empty:
        return ""
    if not isinstance(value, list):
        return text_of(value, column)
    texts = []
    for part in value:
        if isinstance(part, str):
            part = {"text": part}
        if not isinstance(part, Mapping):
            raise BadRowError(f"column {column!r} must be text or a list of its parts, found {_kind(part)} in it.")
        kind = part.get("type")
        if not isinstance(kind, str | None) or kind not in TEXT_PARTS:
            raise UnusableRowError(f"column {column!r} holds {str(kind)[:40]!r}, which is no text.")
        texts.append(text_of(part.get("text"), f"{column}.text"))
    if not texts:
        raise BadRowError(f"column {column!r} is a list without parts.")
    return "".join(texts)


def _extras(message: Mapping[str, JsonValue], column: str) -> JsonObject:
    """What a message says beside its content, for the chat template; empty values say nothing."""
    extras: JsonObject = {}
    for key in CARRIED:
        value = without_nulls(message.get(key))
        if value is None or value in ("", []):
            continue
        if key == "tool_calls":
            value = json_of(value)
            if not isinstance(value, list) or not all(isinstance(call, Mapping) and call for call in value):
                raise BadRowError(f"column {column!r}: 'tool_calls' must be a list of calls.")
        else:
            text_of(value, f"{column}.{key}")
        extras[key] = value
    return extras


def _json(value: JsonValue, column: str) -> str:
    """canonical_json(value), or BadRowError for what is no JSON: NaN, a date of Parquet's, half a letter."""
    try:
        text = canonical_json(value)
        text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise BadRowError(f"column {column!r} cannot be written as JSON ({error}).") from None
    return text


def unread_keys(value: object) -> set[str]:
    """The keys of messages, and of the parts of their contents, that nothing reads."""
    messages = [message for message in _as_list(value) if isinstance(message, Mapping)]
    contents = (message.get("content", message.get("value")) for message in messages)
    parts = [
        part for content in contents if isinstance(content, list) for part in content if isinstance(part, Mapping)
    ]
    return _keys_except(MESSAGE_KEYS, messages) | _keys_except(PART_KEYS, parts)


def _keys_except(read: set[str], objects: Sequence[Mapping[object, object]]) -> set[str]:
    return {str(key) for each in objects for key, value in each.items() if key not in read and has_value(value)}


MESSAGE_KEYS = {"role", "content", "from", "value", *CARRIED}
PART_KEYS = {"type", "text"}


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def has_value(value: object) -> bool:
    """Whether a column or key says anything: null, "", [] and {} do not; 0 and false do."""
    return value is not None and not (isinstance(value, (str, list, dict, tuple)) and not value)


def json_of(value: JsonValue) -> JsonValue:
    """The list or object that a text holds as JSON; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def messages_of(value: JsonValue, column: str) -> JsonValue:
    """Messages that went through CSV, SQL or pandas and came back as text, JSON or Python's; anything else as it
    is. BadRowError for a text that begins so and cannot be read."""
    if not isinstance(value, str) or not WRITTEN_MESSAGES.match(value):
        return value
    messages = json_of(value)
    if isinstance(messages, str):
        try:
            messages = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise BadRowError(
                f"column {column!r} is text that looks like a list of messages, and neither JSON nor Python can "
                "read it. Write the messages as JSON (data.dialogue=text takes the text as it is)."
            ) from None
    complete = all(
        isinstance(turn, Mapping) and any({who, what} <= set(turn) for who, what in _KEY_PAIRS)
        for turn in _as_list(messages)
    )
    return messages if complete else value


_KEY_PAIRS = (("role", "content"), ("from", "value"), ("role", "tool_calls"))


def tools_of(value: JsonValue) -> str:
    """A row's tools, a list or JSON text of one; "" for none."""
    value = json_of(without_nulls(value))
    if not has_value(value):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRowError(f"column 'tools' must be a list of tools, or JSON text of one, found {_kind(value)}.")
    return _json(value, "tools")


def template_values_of(value: JsonValue) -> str:
    """A row's values of the chat template's own variables, an object or JSON text of one; "" for none."""
    value = json_of(without_nulls(value))
    if not has_value(value):
        return ""
    if not isinstance(value, Mapping):
        raise BadRowError(f"column 'chat_template_kwargs' must be an object, found {_kind(value)}.")
    if taken := sorted(RESERVED & set(value)):
        raise BadRowError(f"column 'chat_template_kwargs' sets {taken[0]!r}, which is not the template's own.")
    return _json(value, "chat_template_kwargs")


RESERVED = {
    "messages", "conversation", "conversations", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now", "target_score",
}  # fmt: skip
"""What transformers, or trimtab, gives a template by itself."""


def last_answer(turns: Turns, column: str) -> str:
    """The text of the one assistant turn that is left once the prompt is taken away."""
    if len(turns) != 1 or turns[0].role != "assistant":
        roles = " → ".join(turn.role for turn in turns) or "nothing"
        raise BadRowError(f"column {column!r} must be one assistant turn after the prompt, found {roles}.")
    return as_answer(turns[0])


def dialogue_turns(text: str) -> Prompt:
    """Text written as "Human: … Assistant: …" (Anthropic's HH) -> turns; any other text as it is.

    An assistant's turn at the end that says nothing is the place of the completion, and left out.
    """
    marks = list(DIALOGUE.finditer(text))
    if not marks or marks[0].start() != 0 or marks[0][1] != "Human":
        return text
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    contents = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    roles = ["user" if mark[1] == "Human" else "assistant" for mark in marks]
    if roles[-1] == "assistant" and not contents[-1]:
        roles.pop()
    return tuple(Message(role, content) for role, content in zip(roles, contents, strict=False))


def turn_order_problem(turns: Sequence[Message]) -> str | None:
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
        if not turn.text.strip() and turn.role != "system":
            return "empty turn"
        before = turn.role
    return None if before in ("user", "tool") else "turns out of order"


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
