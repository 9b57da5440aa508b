"""A turn, a conversation and an answer, each with what a chat template may render beside the text.

`Message.extra`, `Conversation.tools` and `Conversation.values` are JSON text: they can be hashed and compared, and
equal rows have equal ones. A message without extra and a conversation without tools are what they always were: a
pair of texts, and a plain tuple.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.json_types import JsonObject, JsonValue

REASONING = ("reasoning_content", "reasoning", "thinking")
"""What an assistant thought before its answer, by the names that templates know it by."""
CARRIED = (*REASONING, "tool_calls", "tool_call_id", "name")
"""The keys of a message, beside role and content, that reach the chat template."""


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One turn. extra: the other keys of the message that the chat template gets, a JSON object; "" for none."""

    role: str
    content: str
    extra: str = ""

    def __repr__(self) -> str:
        # Hashes of rows are made of it: without extra it is what it was before messages had any.
        beside = f", extra={self.extra!r}" if self.extra else ""
        return f"Message(role={self.role!r}, content={self.content!r}{beside})"

    @property
    def extras(self) -> JsonObject:
        """`extra` as an object; empty where there is none."""
        return json.loads(self.extra) if self.extra else {}

    @property
    def text(self) -> str:
        """All that it says as one text, thoughts and tool calls included, for those who have no template."""
        return message_text(self.content, self.extras) if self.extra else self.content

    def as_json(self) -> JsonObject:
        """The message as it stands in a row: an object of role, content and its other keys."""
        return {"role": self.role, "content": self.content, **self.extras}


class Conversation(tuple[Message, ...]):
    """Turns with the row's tools (a JSON list) and its values of the template's own variables (a JSON object)."""

    tools: str
    values: str

    def __new__(cls, turns: Sequence[Message] = (), tools: str = "", values: str = "") -> Conversation:
        self = super().__new__(cls, turns)
        self.tools, self.values = tools, values
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple) or not tuple.__eq__(self, other):
            return False
        return tools_and_values(self) == tools_and_values(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple(self), self.tools, self.values))

    def __repr__(self) -> str:
        return f"Conversation({tuple(self)!r}, tools={self.tools!r}, values={self.values!r})"


class Answer(str):
    """An answer that is a message: its text is all that it says; content and extra are what the template gets."""

    content: str
    extra: str

    def __new__(cls, content: str, extra: str) -> Answer:
        self = super().__new__(cls, message_text(content, json.loads(extra)))
        self.content, self.extra = content, extra
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.content, self.extra

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and (self.content, self.extra) == (other.content, other.extra)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.content, self.extra))


Turns = tuple[Message, ...]
Prompt = str | Turns


def tools_and_values(prompt: Prompt) -> tuple[str, str]:
    """A prompt's tools, and its values of the template's variables, as JSON text; "" for what it has none of."""
    return (prompt.tools, prompt.values) if isinstance(prompt, Conversation) else ("", "")


def conversation(turns: Turns, tools: str = "", values: str = "") -> Turns:
    """Turns with their tools and values; a plain tuple where they have neither."""
    return Conversation(turns, tools, values) if tools or values else tuple(turns)


def with_turns(prompt: Prompt, turns: Turns) -> Turns:
    """A prompt with other turns; its tools and values stay."""
    return conversation(turns, *tools_and_values(prompt))


def answer_turn(answer: str) -> Message:
    """An answer as the assistant's turn."""
    if isinstance(answer, Answer):
        return Message("assistant", answer.content, answer.extra)
    return Message("assistant", answer)


def as_answer(message: Message) -> str:
    """An assistant's turn as an answer: plain text, or an `Answer` where the message holds more."""
    return Answer(message.content, message.extra) if message.extra else message.content


def prompt_as_json(prompt: Prompt) -> str | list[JsonObject]:
    """A prompt as it stands in a row: text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [message.as_json() for message in prompt]


def answer_as_json(answer: str) -> str | list[JsonObject]:
    """An answer as it stands in a row: text, or a list of one message."""
    return [answer_turn(answer).as_json()] if isinstance(answer, Answer) else answer


def context_columns(prompt: Prompt) -> JsonObject:
    """The columns of a row that hold a prompt's tools and values; those that it has none of are left out."""
    columns = zip(("tools", "chat_template_kwargs"), tools_and_values(prompt), strict=True)
    return {name: json.loads(text) for name, text in columns if text}


def message_text(content: str, extras: Mapping[str, JsonValue]) -> str:
    """Thoughts, content and tool calls as one text, as the commonest templates write them."""
    thoughts = (extras[name] for name in REASONING if isinstance(extras.get(name), str))
    parts = [f"<think>\n{thought}\n</think>" for thought in thoughts]
    calls = extras.get("tool_calls") or []
    functions = (call.get("function", call) if isinstance(call, Mapping) else call for call in calls)
    parts += [content] if content else []
    parts += [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in functions]
    return "\n".join(parts)


def without_nulls(value: JsonValue) -> JsonValue:
    """The value without keys that hold null: Parquet fills in those that one row lacks and another has."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(item) for item in value]
    return value


def canonical_json(value: JsonValue) -> str:
    """A row's value as JSON text without nulls; the order of keys is kept, since templates show it."""
    return json.dumps(without_nulls(value), ensure_ascii=False, allow_nan=False)


def strip_last_pair(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The conversation without its oldest exchange, system turn kept; None when nothing may go."""
    system = messages[:1] if messages[0].role == "system" else ()
    rest = messages[len(system) :]
    # The next user turn is where a shorter conversation can start.
    for i, message in enumerate(rest[1:], start=1):
        if message.role == "user":
            return with_turns(messages, system + rest[i:])
    return None
