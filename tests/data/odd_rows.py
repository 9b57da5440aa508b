# ruff: noqa: E501
"""Rows that are odd without being plain errors, and what must come of each.

Of two rows the second is odd. `what`: "used", with `said` what prompt and answer must hold ("one": it has one answer); "ignored" and
"dropped" (when encoded) or "left out" (when read), with `said` the reason under which it is counted; "refused", with `said` in the one line.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Odd(NamedTuple):
    name: str
    row: Any
    what: str
    said: str = ""


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def pair(**changed: Any) -> dict[str, Any]:
    return {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."} | changed


def talk(*middle: dict[str, Any], chosen: Any = None, **more: Any) -> dict[str, Any]:
    """A pair whose prompt is a conversation."""
    prompt = [turn("user", "Sky?"), *middle]
    answers = {"chosen": chosen or [turn("assistant", "Blue.")], "rejected": [turn("assistant", "Green.")]}
    return {"prompt": prompt, **answers, **more}


CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
AS_TEXT = CALL | {"function": {"name": "look", "arguments": '{"at": "sky"}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
ASKED = turn("assistant", None, tool_calls=[CALL])
FOUND = turn("tool", "blue", tool_call_id="call00001")
JSON_TURN = json.dumps([turn("user", "Sky?")])

ODD = (
    # content
    Odd("parts of text", talk(chosen=[turn("assistant", [{"type": "text", "text": "Bl"}, {"type": "text", "text": "ue."}])]), "used", "Blue."),
    Odd("a part that is a string", talk(chosen=[turn("assistant", ["Blue."])]), "used", "Blue."),
    Odd("parts as OpenAI's responses have them", talk(chosen=[turn("assistant", [{"type": "output_text", "text": "Blue."}])]), "used", "Blue."),
    Odd("parts that parquet filled with nulls", talk(chosen=[turn("assistant", [{"type": "text", "text": "Blue.", "image_url": None}])]), "used", "Blue."),
    Odd("an image in the prompt", pair(prompt=[turn("user", [{"type": "image", "url": "a.png"}, {"type": "text", "text": "?"}])]), "left out", "'image', which is no text"),
    Odd("an image in the answer", talk(chosen=[turn("assistant", [{"type": "image_url", "image_url": {}}])]), "left out", "'image_url', which is no text"),
    Odd("audio alone", pair(prompt=[turn("user", [{"type": "input_audio"}])]), "left out", "no text"),
    Odd("a part without text", talk(chosen=[turn("assistant", [{"type": "text"}])]), "refused", "must be text"),
    Odd("a part of null", talk(chosen=[turn("assistant", [None])]), "refused", "found null in it"),
    Odd("no parts", talk(chosen=[turn("assistant", [])]), "refused", "a list without parts"),
    Odd("a part that is a number", talk(chosen=[turn("assistant", [7])]), "refused", "found int in it"),
    Odd("a kind of part that is a list", talk(chosen=[turn("assistant", [{"type": ["text"], "text": "a"}])]), "left out", "which is no text"),
    # thoughts, calls, tools
    Odd("thoughts", talk(chosen=[turn("assistant", "Blue.", reasoning_content="Light scatters.")]), "used", "<think>Light scatters.</think>Blue."),
    Odd("thoughts by another name", talk(chosen=[turn("assistant", "Blue.", reasoning="Light scatters.")]), "used", "Light scatters."),
    Odd("no thoughts", talk(chosen=[turn("assistant", "Blue.", reasoning_content="")]), "used", "Blue."),
    Odd("thoughts of null", talk(chosen=[turn("assistant", "Blue.", reasoning_content=None)]), "used", "Blue."),
    Odd("thoughts that are no text", talk(chosen=[turn("assistant", "Blue.", reasoning_content=7)]), "refused", "reasoning_content"),
    Odd("thoughts alone", talk(chosen=[turn("assistant", "", reasoning_content="Hm.")]), "used", "<think>Hm.</think>"),
    Odd("calls without content", talk(ASKED, FOUND), "used", "look"),
    Odd("calls without the key content", talk({"role": "assistant", "tool_calls": [CALL]}, FOUND), "used", "look"),
    Odd("calls with arguments as text", talk(turn("assistant", "", tool_calls=[AS_TEXT]), FOUND), "used", '{"at": "sky"}'),
    Odd("calls as JSON text", talk(turn("assistant", None, tool_calls=json.dumps([CALL])), FOUND), "used", "look"),
    Odd("a call as the answer", talk(chosen=[ASKED]), "used", "look"),
    Odd("calls that are no list", talk(turn("assistant", "a", tool_calls={"a": 1}), FOUND), "refused", "'tool_calls' must be a list"),
    Odd("a call that is null", talk(turn("assistant", "a", tool_calls=[None]), FOUND), "refused", "'tool_calls' must be a list"),
    Odd("no calls and no content", talk(turn("assistant", None, tool_calls=[]), FOUND), "refused", "must be text"),
    Odd("tools", pair(tools=[TOOL]), "used", "look"),
    Odd("tools as JSON text", pair(tools=json.dumps([TOOL])), "used", "look"),
    Odd("no tools", pair(tools=[]), "used", "Blue."),
    Odd("tools as empty text", pair(tools=""), "used", "Blue."),
    Odd("tools that are text", pair(tools="look"), "refused", "column 'tools' must be a list"),
    Odd("tools that are cut", pair(tools='[{"type": "fun'), "refused", "column 'tools' must be a list"),
    Odd("tools of texts", pair(tools=["look"]), "refused", "column 'tools' must be a list"),
    Odd("tools with NaN", pair(tools=[TOOL | {"a": float("nan")}]), "refused", "cannot be written as JSON"),
    Odd("half a letter in tools", pair(tools=[{"a": "\ud800"}]), "refused", "cannot be written as JSON"),
    Odd("a name", talk(turn("assistant", "Hm?"), turn("user", "Well?", name="Ann")), "ignored", "name, which the chat template does not render"),
    Odd("a weight of a message", talk(turn("assistant", "Hm?", weight=0), turn("user", "Well?")), "ignored", "key weight of messages"),
    Odd("a mask of a message", talk(turn("assistant", "Hm?", train=False), turn("user", "Well?")), "ignored", "key train of messages"),
    # values of the template
    Odd("a value of the template", pair(chat_template_kwargs={"style": "brief"}), "used", "[brief]"),
    Odd("a value as JSON text", pair(chat_template_kwargs='{"style": "brief"}'), "used", "[brief]"),
    Odd("a value that it does not read", pair(chat_template_kwargs={"enable_thinking": True}), "ignored", "enable_thinking, which the chat template does not read"),
    Odd("a value that is transformers'", pair(chat_template_kwargs={"tokenize": True}), "refused", "'tokenize'"),
    Odd("values that are a list", pair(chat_template_kwargs=[1]), "refused", "must be an object"),
    Odd("no values", pair(chat_template_kwargs={}), "used", "Blue."),
    # messages as text
    Odd("a prompt in JSON", pair(prompt=JSON_TURN), "used", "Blue."),
    Odd("an answer in JSON", pair(chosen=json.dumps([turn("assistant", "Azure.")])), "used", "Azure."),
    Odd("an answer in JSON without its list", pair(chosen=json.dumps(turn("assistant", "Azure."))), "used", "Azure."),
    Odd("a prompt in Python", pair(prompt=str([turn("user", "Sky?")])), "used", "Blue."),
    Odd("a prompt as numpy prints it", pair(prompt="[{'role': 'user', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]"), "refused", "looks like a list of messages"),
    Odd("a prompt in JSON that is cut", pair(prompt=JSON_TURN[:-3]), "refused", "looks like a list of messages"),
    Odd("JSON that is no messages", pair(prompt='[{"name": "a"}]'), "used", '[{"name": "a"}]'),
    Odd("a prompt about JSON", pair(prompt='[1, 2] is what?'), "used", "[1, 2] is what?"),
    Odd("messages in JSON", {"messages": json.dumps([turn("user", "Sky?"), turn("assistant", "Blue.")])}, "one", "Blue."),
    Odd("conversations in JSON", {"conversations": json.dumps([{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}])}, "one", "Blue."),
    # scores
    Odd("a score of NaN", pair(score_chosen=float("nan"), score_rejected=1.0), "ignored", "score that is no number"),
    Odd("a score of infinity", pair(score_chosen=float("inf"), score_rejected=1.0), "ignored", "score that is no number"),
    Odd("a score beyond a float", pair(score_chosen=10**400, score_rejected=1), "ignored", "score that is no number"),
    Odd("a score of words", pair(score_chosen="N/A", score_rejected=1), "ignored", "score that is no number"),
    Odd("a score that is true", pair(score_chosen=True, score_rejected=1), "ignored", "score that is no number"),
    Odd("scores as text", pair(score_chosen="8.5", score_rejected=" 3 "), "used", "Blue."),
    Odd("a score of NaN in metadata", pair(metadata={"score_chosen": float("nan"), "score_rejected": 1}), "ignored", "score that is no number"),
    Odd("metadata in JSON", pair(metadata='{"score_chosen": 2, "score_rejected": 1}'), "used", "Blue."),
    # columns
    Odd("a weight", pair(weight=0.5), "ignored", "column weight"),
    Odd("an id", pair(id=7), "ignored", "column id"),
    Odd("a column of a line end", pair(**{"a\nb": 7}), "ignored", "column a b"),
    Odd("a column without a name", pair(**{"": 7}), "ignored", "column"),
    Odd("a column of half a letter", pair(**{"\ud800": 7}), "ignored", "column"),
    Odd("a long name", pair(**{"x" * 5000: 7}), "ignored", "column xxx"),
    Odd("an empty column", pair(note="", other=None, third=[]), "used", "Blue."),
    # a prompt that contradicts
    Odd("a prompt of another question", pair(chosen=[turn("user", "Sea?"), turn("assistant", "Blue.")], rejected=[turn("user", "Sea?"), turn("assistant", "Green.")]), "refused", "column 'prompt' contradicts the turns"),
    Odd("a prompt with white space", pair(prompt=" Sky?\n", chosen=[turn("user", "Sky?"), turn("assistant", "Blue.")], rejected=[turn("user", "Sky?"), turn("assistant", "Green.")]), "used", "Blue."),
    Odd("a prompt beside other messages", {"prompt": "Sea?", "messages": [turn("user", "Sky?"), turn("assistant", "Blue.")]}, "refused", "contradicts the turns of 'messages'"),
    Odd("a prompt of other turns", {"prompt": [turn("user", "Sea?")], "messages": [turn("user", "Sky?"), turn("assistant", "Blue.")]}, "refused", "contradicts"),
    Odd("a prompt that is a number", {"prompt": 7, "messages": [turn("user", "Sky?"), turn("assistant", "Blue.")]}, "refused", "contradicts"),
    Odd("a prompt beside the same messages", {"prompt": "Sky?", "messages": [turn("user", "Sky?"), turn("assistant", "Blue.")]}, "one", "Blue."),
    # ends of turn
    Odd("an answer that ends its turn", pair(chosen="Azure.<|im_end|>"), "ignored", "end of turn in an answer"),
    Odd("an answer that ends it twice", pair(chosen="Azure.<|im_end|>\n<|im_end|>\n"), "ignored", "end of turn in an answer"),
    Odd("an answer that is an end", pair(chosen="<|im_end|>"), "dropped", "empty completion"),
    Odd("an answer with thoughts that ends its turn", talk(chosen=[turn("assistant", "Blue.<|im_end|>", reasoning_content="Hm.")]), "ignored", "end of turn in an answer"),
    # odd but whole
    Odd("a zero byte", pair(chosen="Blue\0."), "used", "Blue"),
    Odd("a byte order mark", pair(chosen="\ufeffBlue."), "used", "Blue."),
    Odd("letters that compose", pair(chosen="Ble\u0301u."), "used", "Ble"),
    Odd("a line separator", pair(chosen="Blue.\u2028"), "used", "Blue."),
    Odd("Jinja in the prompt", pair(prompt="{{ 7 * 7 }} {% for %}"), "used", "{{ 7 * 7 }} {% for %}"),
    Odd("an answer of white space", pair(chosen="\u00a0\u3000"), "dropped", "empty completion"),
    Odd("the same answer twice", pair(rejected="Blue."), "dropped", "identical completions"),
    Odd("answers that differ in their end", pair(chosen="Blue.", rejected="Blue.<|im_end|>"), "dropped", "identical"),
    Odd("a role in capitals", talk(turn("Assistant", "Hm?"), turn("user", "Well?")), "refused", "unknown role"),
    Odd("a message that is a list", talk(["assistant", "Hm?"], turn("user", "Well?")), "refused", "each message needs"),
)  # fmt: skip
