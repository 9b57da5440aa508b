"""What a chat template does with that which stands beside a text: thoughts, tool calls, tools, its own variables.

A template says it itself: each is shown to it once, in a conversation of its own, and its text comes out or not.
What comes out is what is learned; what does not is counted, and a row of which nothing sensible would be left is
dropped.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trimtab.data.message import REASONING, Answer, Message, Prompt, answer_turn, tools_and_values
from trimtab.data.records import Record
from trimtab.json_types import JsonObject

PROBE_WORD = "trimtab01"
"""What is looked for: a name that also suits as a call's id where a template wants nine letters and digits."""
NOT_RENDERED = "tool calls that the chat template does not render"
NOW = "strftime_now"
"""What a template asks for today's date with."""
FIXED_DAY = datetime.date(2024, 7, 26)
"""The date for those who keep none, such as reward models: the one that Llama's templates fall back on."""
Render = Callable[[list[JsonObject], list[JsonObject] | None], str]
"""What a template makes of turns and tools."""


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """What a template can render. rendered: the keys of messages that come out, and "tools". objects: whether a
    call's arguments may be an object (else they stay the text that they are). null: whether content is null
    beside tool calls."""

    rendered: frozenset[str] = frozenset()
    objects: bool = False
    null: bool = False


def probe_features(render: Render) -> TemplateFeatures:
    """Finds out what a template renders, by showing it conversations that hold one such thing each."""

    def shows(*turns: JsonObject, tools: list[JsonObject] | None = None) -> bool:
        try:
            return PROBE_WORD in render([{"role": "user", "content": "?"}, *turns], tools)
        except Exception:  # templates raise whatever they like; what they refuse they do not render
            return False

    def call(name: str = "look", arguments: JsonObject | None = None) -> JsonObject:
        return {"id": "a00000001", "type": "function", "function": {"name": name, "arguments": arguments or {}}}

    def calling(content: str | None, call: JsonObject) -> JsonObject:
        return {"role": "assistant", "content": content, "tool_calls": [call]}

    def answering(**extras: str) -> JsonObject:
        return {"role": "assistant", "content": "!", **extras}

    tool = {"type": "function", "function": {"name": PROBE_WORD, "description": "", "parameters": {}}}
    answer = {"role": "tool", "content": "!", "tool_call_id": PROBE_WORD}
    with_object, with_text = call(name=PROBE_WORD), call(name=PROBE_WORD)
    with_text["function"]["arguments"] = "{}"
    calls = any(shows(calling(content, each)) for content in ("", None) for each in (with_object, with_text))
    rendered = {key for key in REASONING if shows(answering(**{key: PROBE_WORD}))}
    rendered |= {"tool_calls"} if calls else set()
    rendered |= {"tool_call_id"} if shows(calling("", call()), answer) else set()
    user_name = {"role": "user", "content": "!", "name": PROBE_WORD}
    tool_name = answer | {"tool_call_id": "a00000001", "name": PROBE_WORD}
    rendered |= {"name"} if shows(answering(), user_name) or shows(calling("", call()), tool_name) else set()
    rendered |= {"tools"} if shows(tools=[tool]) else set()
    null = calls and not any(shows(calling("", each)) for each in (with_object, with_text))
    objects = shows(calling(None if null else "", call(arguments={PROBE_WORD: 1})))
    return TemplateFeatures(frozenset(rendered), objects, null)


def turn_of(message: Message, features: TemplateFeatures) -> JsonObject:
    """A message as the template gets it."""
    turn = message.as_json()
    if "tool_calls" not in turn:
        return turn
    if features.null and not message.content:
        turn["content"] = None
    if features.objects:  # as text they would be quoted once more
        turn["tool_calls"] = [_with_objects(call) for call in turn["tool_calls"]]
    return turn


def _with_objects(call: JsonObject) -> JsonObject:
    function = call.get("function")
    if isinstance(function, dict):
        return call | {"function": _with_objects(function)}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return call
    return call | {"arguments": parsed} if isinstance(parsed, dict) else call


def unusable_by_template(record: Record, features: TemplateFeatures) -> str | None:
    """Why a record can't be used: its tool calls do not come out. None where nothing that matters is lost."""
    calls = any("tool_calls" in message.extras for message in _messages(record) if message.extra)
    return NOT_RENDERED if calls and "tool_calls" not in features.rendered else None


def unrendered_parts(record: Record, features: TemplateFeatures, variables: Iterable[str]) -> list[str]:
    """What a record holds for the template and the template leaves out. variables: those that it reads."""
    prompts = record.prompts or (record.prompt,)
    keys = {key for message in _messages(record) if message.extra for key in message.extras}
    keys |= {"tools"} if any(tools_and_values(prompt)[0] for prompt in prompts) else set()
    values = {
        name
        for prompt in prompts
        if tools_and_values(prompt)[1]
        for name in json.loads(tools_and_values(prompt)[1])
    }
    unrendered = [f"{key}, which the chat template does not render" for key in sorted(keys - features.rendered)]
    return unrendered + [
        f"{name}, which the chat template does not read" for name in sorted(values - set(variables))
    ]


def _messages(record: Record) -> list[Message]:
    prompts: Sequence[Prompt] = record.prompts or (record.prompt,)
    turns = [message for prompt in prompts if not isinstance(prompt, str) for message in prompt]
    return turns + [answer_turn(answer) for answer in record.completions]


class Rendering(Protocol):
    """What is to be known of how rows are written: what an answer may hold at its end that is put there anyway, and
    what is made of that which stands beside texts."""

    ends: tuple[str, ...]

    @property
    def features(self) -> TemplateFeatures:
        """Which parts of a message besides its text are written."""

    @property
    def variables(self) -> frozenset[str]:
        """The variables of the chat template that it reads."""


END_OF_TURN = "end of turn in an answer, taken off"


def ignored_of(record: Record, chat: Rendering) -> list[str]:
    """What a row holds that neither trimtab nor the chat template uses, each named once."""
    ended = any(without_turn_end(answer, chat.ends) != answer for answer in record.completions)
    unrendered = unrendered_parts(record, chat.features, chat.variables) if _has_more(record) else []
    return list(dict.fromkeys([*record.ignored, *unrendered, *([END_OF_TURN] if ended else [])]))


def _has_more(record: Record) -> bool:
    """Whether it is more than texts: only then is the template asked what it makes of that."""
    prompts = record.prompts or (record.prompt,)
    turns = (turn for prompt in prompts if not isinstance(prompt, str) for turn in prompt)
    return (
        any(any(tools_and_values(prompt)) for prompt in prompts)
        or any(turn.extra for turn in turns)
        or any(isinstance(answer, Answer) for answer in record.completions)
    )


def without_turn_end(answer: str, ends: Sequence[str]) -> str:
    """An answer without the ends of turn that it holds at its end: they are put there anyway, and would be learned
    twice. ends: the texts of the tokens that end a turn."""
    text = answer.content if isinstance(answer, Answer) else answer
    while True:
        bare = text.rstrip()
        end = next((end for end in ends if end and bare.endswith(end)), None)
        if end is None:
            break
        text = bare.removesuffix(end)
    if isinstance(answer, Answer):
        return answer if text == answer.content else Answer(text, answer.extra)
    return text


def variables_of(template: str) -> frozenset[str]:
    """The variables that a template reads and does not set; none where it cannot be parsed."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    # A block of transformers' own, which says nothing about variables.
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        undeclared = meta.find_undeclared_variables(environment.parse(plain))
    except TemplateError:
        return frozenset()
    # `set x = x or …` reads it as well, and counts as set.
    return frozenset(undeclared | set(re.findall(r"\b([A-Za-z_]\w*)\s+is\s+(?:not\s+)?(?:un)?defined", plain)))


def asks_for_today(template: str) -> bool:
    """Whether a template asks for today's date."""
    return NOW in template


def with_date(template: str, day: datetime.date) -> str:
    """A template that asks for today's date, with this one in its place: the same text today and tomorrow."""
    return re.sub(
        NOW + r"""\s*\(\s*(?:format\s*=\s*)?("[^"\\]*"|'[^'\\]*')\s*\)""",
        lambda call: json.dumps(day.strftime(call[1][1:-1]), ensure_ascii=False),
        template,
    )
