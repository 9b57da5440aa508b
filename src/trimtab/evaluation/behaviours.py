"""What completions do, read from their text alone: shares that need no judge.

These are rules, not understanding: each is documented below, is cheap, and is the same for every method,
so differences between methods mean more than the levels do. They are written for English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.evaluation.phrases import HEDGING, META_COMMENTARY, found_by

_LOOP_WORDS = 8
_LOOP_SHARE = 0.6
_END, _END_SHARE = 30, 0.4
"""Sequences of three words at a completion's end, and the share of them that came twice before."""
_NGRAM = 4
_ECHO_WORDS = 8
_LETTERS = re.compile(r"([^\s\-=_*#~.|+─━—])\1{49}")
_WORD = re.compile(r"\w+(?:['’]\w+)*|%")
_LIST_LINE = re.compile(r"^[ \t]*(?:[-*•–]|\(?\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_MARKER = re.compile(
    r"\b(?:confidence|certainty|score|rating|quality|helpfulness|accuracy)\b(?:[ \t]+(?:level|score))?"
    r"[ \t*]*[:=][ \t*]*(?:~|about )?\d+(?:\.\d+)?[ \t]*(?:%|percent|/[ \t]*\d+)",
    re.IGNORECASE,
)
_META = found_by(META_COMMENTARY)
_HEDGE = found_by(HEDGING)
_QUOTED = re.compile(r'"[^"\n]{0,300}"|“[^”\n]{0,300}”')


def _plain(text: str) -> str:
    return text.replace("’", "'")


def _unquoted(text: str) -> str:
    """Without what stands between quotation marks: somebody else's words."""
    return _QUOTED.sub('""', text)


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text).casefold())


def _longest_repeat(words: list[str], longest: int = 40) -> tuple[int, int]:
    """The phrase of at most `longest` words that is repeated in a row over most words: how many times it is said,
    and over how many words. A word alone counts from eight times on: fewer are emphasis or a table."""
    best = (0, 0)
    for period in range(1, longest + 1):
        run = 0  # words in a row that equal the word one period earlier
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            times, over = 1 + run // period, run + period
            if times < 3 or over <= best[1]:
                continue
            alone = len(set(words[i - period + 1 : i + 1])) == 1
            if not alone or (over >= 8 and words[i] != "#"):
                best = (over if alone else times, over)
    return best


def loops(completion: str) -> bool:
    """Stuck: the same letter, word, phrase or passage again and again, so that nothing else comes of it."""
    words = ["#" if word.isdigit() else word for word in _words(completion)]
    times, over = _longest_repeat(words)
    if (times >= 4 and over >= _LOOP_WORDS) or (times >= 3 and 3 * over >= len(words)):
        return True
    repeated = repeated_ngrams(completion)
    passages = len(words) >= 40 and repeated is not None and repeated >= _LOOP_SHARE
    return passages or _goes_round(words) or _LETTERS.search(completion) is not None


def _goes_round(words: Sequence[str]) -> bool:
    """Whether the end has come before, twice at least: passages that return a little changed. Rows of numbers are
    none."""
    if len(words) < 40:
        return False
    said: Counter[tuple[str, ...]] = Counter()
    twice = []
    for i in range(len(words) - 2):
        three = tuple(words[i : i + 3])
        twice.append(said[three] >= 2 and three.count("#") < 2)
        said[three] += 1
    return sum(twice[-_END:]) >= _END_SHARE * _END


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
        "share in which a phrase of 2 to 40 words, or a word from eight times on, is repeated in a row: three "
        "times over a third of the completion, or four times; or 60 % of its 4-word sequences occurred before; or "
        "40 % of its last thirty 3-word sequences occurred twice before; or a letter stands 50 times in a row",
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
        "share that speaks of itself, of its reply or of the exchange rather than of its subject "
        '("as an AI", "I\'d be happy to help", "I hope this helps", "let me know if")',
        lambda _, completion: bool(_META.search(_unquoted(_plain(completion)))),
    ),
    "hedging": Behaviour(
        "share that is unsure of its answer or gives no definite one "
        '("it depends", "I\'m not sure", "hard to say", "it seems that"); "might" of the subject is no hedge',
        lambda _, completion: bool(_HEDGE.search(_unquoted(_plain(completion)))),
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
