"""Values as other programs write them: scores that are text, preferences, who won, texts that are messages."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from numbers import Real
from typing import NamedTuple

from trimtab.data.fields import BadRowError, dialogue_turns, messages_of, score_of, turns_of
from trimtab.data.message import Message, Prompt, Turns, as_answer
from trimtab.data.records import complete_prompt
from trimtab.json_types import JsonValue

WORDS = {
    "correct": 1.0, "incorrect": 0.0, "partial": 0.5, "c": 1.0, "i": 0.0, "p": 0.5, "n": 0.0,
    "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "pass": 1.0, "fail": 0.0, "passed": 1.0, "failed": 0.0,
}  # fmt: skip
"""Grades in words, inspect's letters (correct, incorrect, partial, no answer) among them."""
MISSING = {"", "null", "none", "nan", "na", "n/a", "inf", "-inf", "error"}
_SHARE = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*(?:%|(?:/|out of)\s*(\d+(?:\.\d+)?))\s*", re.ASCII)
TIES = {
    "tie",
    "draw",
    "equal",
    "both",
    "neither",
    "same",
    "tie (bothbad)",
    "tie_bothbad",
    "bothbad",
    "both_bad",
    "both bad",
    "both_good",
    "both good",
    "bothgood",
    "0.5",
}


class Read(NamedTuple):
    """A score, or why there is none. scale: what it was written in: of one column there may be one."""

    score: float | None
    reason: str | None = None
    scale: str = ""


def score_read(value: JsonValue) -> Read:
    """A number, also as text, "87 %", "8/10" (a share of 1 either way), or a grade in words. BadRowError for a text
    that is none of these: taken as missing, it would be left out without a word."""
    if isinstance(value, Mapping | list):
        found = "several named ones" if isinstance(value, Mapping) else "a list"
        raise BadRowError(f"a score must be one number, found {found}. Name one, as in --map score=scores.helpful")
    if isinstance(value, bool):
        return Read(float(value), scale="grades")
    if value is None or (isinstance(value, Real) and score_of(value) is None):
        return Read(None, f"the score is {'null' if value is None else value}")
    if not isinstance(value, str):
        return Read(score_of(value), scale="numbers")
    text = value.strip().casefold()
    if text in MISSING:
        return Read(None, f"the score is {value.strip() or 'empty'}")
    if text in WORDS:
        return Read(WORDS[text], scale="grades")
    if share := _SHARE.fullmatch(text):
        whole = float(share[2] or 100)
        return Read(float(share[1]) / whole if whole else None, scale=f"shares of {whole:g}")
    if (number := score_of(value)) is not None:
        return Read(number, scale="numbers")
    raise BadRowError(f"the score {value[:40]!r} is no number, share or grade")


def winner_read(value: JsonValue, ours: Collection[str], theirs: Collection[str]) -> float | None:
    """Who won: 1 for us, 0 for them, ½ for a tie; None where it is null. ours, theirs: what either side may be
    called. BadRowError for another name."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in MISSING):
        return None
    text = str(value).strip().casefold()
    if text in TIES:
        return 0.5
    for names, won in ((ours, 1.0), (theirs, 0.0)):
        if text in {name.casefold() for name in names}:
            return won
    raise BadRowError(f"the winner {str(value)[:40]!r} is none of {', '.join([*ours, *theirs])}, nor a tie")


def preference_read(value: JsonValue, from_one: bool) -> float | None:
    """A preference as a share from 0 to 1. from_one: on AlpacaEval's scale of 1 (the opponent) to 2 (the method),
    on which 0 is a draw. None where it is missing; BadRowError for what is beyond the scale."""
    read = score_read(value)
    if read.score is None:
        return None
    share = read.score
    if from_one:
        share = 0.5 if read.score == 0 else read.score - 1
    if not 0 <= share <= 1:
        raise BadRowError(f"the preference {read.score:g} is not from {'1 to 2' if from_one else '0 to 1'}")
    return share


def plain(text: str) -> str:
    """A text as it is compared: white space is no difference."""
    return " ".join(text.split())


def key_read(value: JsonValue) -> str | None:
    """An id as text: 7, 7.0 and "7" are the same."""
    if value is None or isinstance(value, Mapping | list):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip() or None


def prompt_read(value: JsonValue) -> str | None:
    """A prompt's text; of messages the last turn before the answer, as in trimtab's own files."""
    if value is None:
        return None
    value = _messages(value)
    if isinstance(value, list):
        turns = turns_of(value, "prompt")
        asked = [turn for turn in turns if turn.role == "user"]
        return (asked or list(turns))[-1].content
    dialogue = dialogue_turns(str(value))
    return dialogue if isinstance(dialogue, str) else dialogue[-1].content


def conversation_read(value: JsonValue, system: JsonValue = None) -> Turns:
    """All turns of a prompt, where they are more than a text; a system prompt of its own column stands first."""
    if value is None:
        return ()
    value = _messages(value)
    prompt = turns_of(value, "prompt") if isinstance(value, list) else str(value)
    return more_than_text(completed(prompt, system))


def completed(prompt: Prompt, system: JsonValue) -> Prompt:
    """A prompt with its turns, and the system prompt of its row; as it is where no answer could follow it, which is
    no matter for what stands there."""
    try:
        return complete_prompt(prompt, system, dialogue=True)
    except BadRowError:
        return prompt


def more_than_text(prompt: Prompt) -> Turns:
    """A prompt's turns; () where it is a text alone, or a user's only turn."""
    if isinstance(prompt, str) or (prompt == (Message("user", prompt[0].content),)):
        return ()
    return prompt


def completion_read(value: JsonValue) -> str | None:
    """A completion's text; of messages the last one's."""
    if value is None:
        return None
    value = _messages(value)
    if isinstance(value, Mapping) and ("content" in value or "value" in value):
        value = [{"role": "assistant", **value}] if "content" in value else [value]
    if isinstance(value, list):
        if not value or isinstance(value[0], str):
            return str(value[0]) if value else None
        return as_answer(turns_of(value, "completion")[-1])
    return str(value)


def _messages(value: JsonValue) -> JsonValue:
    """Messages that were written as text, as messages; any other text as it is: an answer may begin like one."""
    try:
        return messages_of(value, "text")
    except BadRowError:
        return value


def whole_read(value: JsonValue) -> int | None:
    """A count, also as text; None for anything else."""
    number = score_of(value)
    return None if number is None or number < 0 else int(number)
