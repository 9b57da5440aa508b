"""A turn, a conversation and an answer, each with what a chat template may render beside the text.

`Message.extra`, `Conversation.tools` and `Conversation.values` are JSON text: they can be hashed and compared, and
equal rows have equal ones. A message without extra and a conversation without tools are what they always were: a
pair of texts, and a plain tuple.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    def extras(self) -> dict[str, Any]:
        return json.loads(self.extra) if self.extra else {}

    @property
    def text(self) -> str:
        """All that it says as one text, thoughts and tool calls included, for those who have no template."""
        return readable(self.content, self.extras) if self.extra else self.content

    def as_json(self) -> dict[str, Any]:
        """As it stands in a row."""
        return {"role": self.role, "content": self.content, **self.extras}


class Conversation(tuple[Message, ...]):
    """Turns with the row's tools (a JSON list) and its values of the template's own variables (a JSON object)."""

    tools: str
    values: str

    def __new__(cls, turns: Sequence[Message] = (), tools: str = "", values: str = "") -> Conversation:
        made = super().__new__(cls, turns)
        made.tools, made.values = tools, values
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and tuple.__eq__(self, other) and beside(self) == beside(other)

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
        made = super().__new__(cls, readable(content, json.loads(extra)))
        made.content, made.extra = content, extra
        return made

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


def beside(prompt: Any) -> tuple[str, str]:
    """A prompt's tools and values; "" for what it has none of."""
    return getattr(prompt, "tools", ""), getattr(prompt, "values", "")


def conversation(turns: Turns, tools: str = "", values: str = "") -> Turns:
    return Conversation(turns, tools, values) if tools or values else tuple(turns)


def like(prompt: Prompt, turns: Turns) -> Turns:
    """Other turns with what stands beside a prompt's."""
    return conversation(turns, *beside(prompt))


def answer_turn(answer: str) -> Message:
    """An answer as the assistant's turn."""
    if isinstance(answer, Answer):
        return Message("assistant", answer.content, answer.extra)
    return Message("assistant", answer)


def as_answer(message: Message) -> str:
    return Answer(message.content, message.extra) if message.extra else message.content


def prompt_as_json(prompt: Prompt) -> Any:
    """A prompt as it stands in a row: text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [message.as_json() for message in prompt]


def answer_as_json(answer: str) -> Any:
    """An answer as it stands in a row: text, or a list of one message."""
    return [answer_turn(answer).as_json()] if isinstance(answer, Answer) else answer


def row_beside(prompt: Prompt) -> dict[str, Any]:
    """The columns of a row that say what stands beside a prompt."""
    found = zip(("tools", "chat_template_kwargs"), beside(prompt), strict=True)
    return {name: json.loads(text) for name, text in found if text}


def readable(content: str, extras: Mapping[str, Any]) -> str:
    """Thoughts, content and tool calls as one text, as the commonest templates write them."""
    thoughts = (extras[name] for name in REASONING if isinstance(extras.get(name), str))
    parts = [f"<think>\n{thought}\n</think>" for thought in thoughts]
    calls = extras.get("tool_calls") or []
    wanted = (call.get("function", call) if isinstance(call, Mapping) else call for call in calls)
    parts += [content] if content else []
    parts += [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in wanted]
    return "\n".join(parts)


def without_nulls(value: Any) -> Any:
    """Parquet fills the keys that one row lacks and another has with null: they say nothing."""
    if isinstance(value, Mapping):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(one) for one in value]
    return value


def canonical(value: Any) -> str:
    """JSON text of what stands in a row, the order of its keys kept: templates show it."""
    return json.dumps(without_nulls(value), ensure_ascii=False, allow_nan=False)


def strip_last_pair(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The conversation without its oldest exchange, system turn kept; None when nothing may go."""
    system = messages[:1] if messages[0].role == "system" else ()
    rest = messages[len(system) :]
    # The next user turn is where a shorter conversation can start.
    for i, message in enumerate(rest[1:], start=1):
        if message.role == "user":
            return like(messages, system + rest[i:])
    return None
