"""What completions do, read from their text alone: shares that need no judge.

These are rules, not understanding: each is documented below, is cheap, and is the same for every method,
so differences between methods mean more than the levels do. They are written for English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LOOP_TIMES = 3
_NGRAM = 4
_ECHO_WORDS = 8
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_WORD = re.compile(r"\w+(?:['’]\w+)*|%")
_LIST_LINE = re.compile(r"^[ \t]*(?:[-*•–]|\(?\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_MARKER = re.compile(
    r"\b(?:confidence|certainty|score|rating|quality|helpfulness|accuracy)\b(?:[ \t]+(?:level|score))?"
    r"[ \t*]*[:=][ \t*]*(?:~|about )?\d+(?:\.\d+)?[ \t]*(?:%|percent|/[ \t]*\d+)",
    re.IGNORECASE,
)
_META = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|assistant)\b"
    r"|\bi(?:'m| am) (?:an? |just an? )?(?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi (?:was|have been) (?:trained|designed|programmed)\b|\bmy (?:training|knowledge) (?:data|cutoff)\b"
    r"|\bi(?:'m| am) here to (?:help|assist)\b|\bto assist you with your (?:question|request)\b"
    r"|\b(?:here is|here's|below is) (?:my|the) (?:response|answer)\b"
    r"|\bthe (?:above )?response (?:should|above|is intended)\b"
    r"|\bmy (?:response|answer) (?:is|will|should)\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:it|that|this|the answer|your decision) (?:may |might |will )?depends?\b|\bperhaps\b|\bpossibly\b"
    r"|\bmight\b|\bmaybe\b|\bi(?:'m| am) not (?:entirely |completely |really )?(?:sure|certain)\b"
    r"|\b(?:hard|difficult) to (?:say|tell|know)\b|\bit (?:seems|appears)\b"
    r"|\b(?:i|we) (?:can't|cannot) be sure\b",
    re.IGNORECASE,
)


def _plain(text: str) -> str:
    return text.replace("’", "'")


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text).casefold())


def _phrase_in_a_row(words: list[str], longest: int = 20) -> bool:
    """Whether a phrase of 2 to `longest` words follows itself twice; the period is the phrase's length."""
    for period in range(2, longest + 1):
        run = 0  # words in a row that equal the word one period earlier
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            phrase = words[i - period + 1 : i + 1]
            # One word said over and over is emphasis or a table, not a phrase.
            if run >= (_LOOP_TIMES - 1) * period and len(set(phrase)) > 1:
                return True
    return False


def loops(completion: str) -> bool:
    """Stuck: the same line, sentence or phrase again and again."""
    units = [u for part in _SENTENCE.split(completion) if len(u := tuple(_words(part))) >= 2]
    if units and max(Counter(units).values()) >= _LOOP_TIMES:
        return True
    return _phrase_in_a_row(_words(completion))


def repeated_ngrams(completion: str, n: int = _NGRAM) -> float | None:
    """1 - distinct / all n-grams of words; None for a completion of fewer than n words."""
    words = _words(completion)
    total = len(words) - n + 1
    if total < 1:
        return None
    return 1 - len({tuple(words[i : i + n]) for i in range(total)}) / total


def prompt_echo(prompt: str, completion: str) -> bool | None:
    """Whether the completion repeats the prompt; None for prompts under four words."""
    asked = _words(prompt)
    if len(asked) < 4:
        return None
    n = min(_ECHO_WORDS, len(asked))
    said = f" {' '.join(_words(completion))} "
    return any(f" {' '.join(asked[i : i + n])} " in said for i in range(len(asked) - n + 1))


@dataclass(frozen=True)
class Behaviour:
    """definition: how it is counted, for the report. rule: of a prompt and its completion: whether it is there, or
    its share; None where it does not apply."""

    definition: str
    rule: Callable[[str, str], float | bool | None]


BEHAVIOURS: dict[str, Behaviour] = {
    "loops": Behaviour(
        "share in which a line or sentence of at least two words occurs three times or more, or a "
        "phrase of 2 to 20 words is said three times in a row",
        lambda _, completion: loops(completion),
    ),
    "repeated_ngrams": Behaviour(
        "mean share of 4-word sequences that occurred before in the same completion",
        lambda _, completion: repeated_ngrams(completion),
    ),
    "markers": Behaviour(
        'share with a rating of itself such as "Confidence: 90%" or "Score: 8/10"',
        lambda _, completion: bool(_MARKER.search(completion)),
    ),
    "meta_commentary": Behaviour(
        'share that speaks of itself or the task ("as an AI", "I was trained on", '
        '"I\'m here to assist", "here is my response")',
        lambda _, completion: bool(_META.search(_plain(completion))),
    ),
    "hedging": Behaviour(
        'share with a hedge ("it depends", "perhaps", "might", "I\'m not sure", "hard to say")',
        lambda _, completion: bool(_HEDGE.search(_plain(completion))),
    ),
    "list_structure": Behaviour(
        "share with two or more lines that begin with a bullet or a number",
        lambda _, completion: len(_LIST_LINE.findall(completion)) >= 2,
    ),
    "prompt_echo": Behaviour(
        "share that repeats eight consecutive words of the prompt, or all of a prompt of 4 to 7", prompt_echo
    ),
    "empty": Behaviour("share with no visible text", lambda _, completion: not completion.strip()),
}
"""By name, in the order of the report. To add one: one row, and its rule above where it takes more than a line."""


def behaviours(prompts: Sequence[str], completions: Sequence[str]) -> dict[str, float | None]:
    """Each of BEHAVIOURS as a share of the completions; None where it applies to none."""
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions")
    pairs = list(zip(prompts, completions, strict=True))
    return {name: _mean([behaviour.rule(*pair) for pair in pairs]) for name, behaviour in BEHAVIOURS.items()}


def _mean(values: Sequence[float | bool | None]) -> float | None:
    applicable = [float(value) for value in values if value is not None]
    return sum(applicable) / len(applicable) if applicable else None
