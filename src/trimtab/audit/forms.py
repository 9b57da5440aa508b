"""Surface forms of texts, and which texts hold them: word sequences (n-grams) and lines.

Texts are counted as arrays: every n-gram is an integer made of two (n − 1)-grams, and one that too few texts hold
is given up before anything longer is made of it. Dimension suffixes: _N tokens of all texts, one behind the other;
_H holdings, a (form, text) each, sorted; _F forms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 5
MAX_LINE_CHARACTERS = 80
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*|%")

Kind = Literal["line", "n-gram"]
Ints = NDArray[np.int64]

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every either neither no none all both such what which who whom
    whose i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we
    us our ours ourselves they them their theirs themselves one ones of in on at by for with from to into onto
    over under about between among through during before after above below up down out off as per via within
    without against upon across along around behind beside near toward towards than and or but nor so yet if
    then because while although though unless until since whether when where why how be am is are was were been
    being have has had having do does did doing done will would shall should can could may might must not n't
    also very too just only more most much many other another own same there here i'm i've i'd i'll you're
    you've you'd you'll he's she's it's we're we've we'll they're they've that's there's don't doesn't didn't
    isn't aren't wasn't weren't won't can't couldn't wouldn't shouldn't haven't hasn't hadn't # %
    """.split()  # noqa: SIM905 (a list of it would be a page)
)
"""English words that carry grammar rather than content, and the signs for a number and per cent. A word sequence of
these alone tells people nothing ("of the", "it is a"), and one that begins or ends with any says no more than what
stands between ("assistant i"): neither is a marker. At the edges of others "#" and "%" may stand."""
_SIGNS = {"#", "%"}


def normalized_words(text: str) -> list[str]:
    """The words of a text in lower case, and its "%" signs; each number as "#"."""
    return ["#" if w[0].isdigit() else w for w in _WORD.findall(text.lower().replace("’", "'"))]


def line_shape(line: str) -> str:
    """A line in lower case, numbers as "#", runs of white space as one space."""
    return _NUMBER.sub("#", " ".join(line.lower().split()))


class Held(NamedTuple):
    """Which texts hold which forms of one kind. names: of each form. form_of, text_of: [H], sorted so."""

    kind: Kind
    names: list[str]
    form_of: Ints
    text_of: Ints


def held_lines(texts: Sequence[str]) -> Held:
    """Lines of at most 80 characters."""
    places: dict[str, int] = {}
    codes = set()
    for i, text in enumerate(texts):
        for shape in map(line_shape, text.splitlines()):
            if shape and len(shape) <= MAX_LINE_CHARACTERS:
                codes.add(places.setdefault(shape, len(places)) * len(texts) + i)
    code_H = np.array(sorted(codes), dtype=np.int64)
    return Held("line", list(places), *np.divmod(code_H, max(1, len(texts))))


def held_ngrams(words: Sequence[Sequence[str]], least: int) -> Held:
    """Sequences of 1 to 5 words that at least `least` texts hold, with content and no function word at an end."""
    places: dict[str, int] = {}
    gram_N = np.array([places.setdefault(w, len(places)) for w in chain.from_iterable(words)], dtype=np.int64)
    text_N = np.repeat(np.arange(len(words)), np.array([len(text) for text in words], dtype=np.int64))
    vocabulary = list(places)
    content = np.array([word not in FUNCTION_WORDS for word in vocabulary], dtype=bool)
    edge = content | np.array([word in _SIGNS for word in vocabulary], dtype=bool)
    token_N = gram_N
    start_N = np.arange(len(gram_N))  # where each n-gram of the present length begins
    telling_N = content[gram_N] if len(gram_N) else np.zeros(0, dtype=bool)
    names: list[str] = []
    forms, holders = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for n in range(1, MAX_WORDS + 1):
        _, first_F, gram_N = np.unique(gram_N, return_index=True, return_inverse=True)
        code_H = np.unique(gram_N * len(words) + text_N[start_N])
        form_H, text_H = np.divmod(code_H, max(1, len(words)))
        frequent_F = np.bincount(form_H, minlength=len(first_F)) >= least
        start_F = start_N[first_F]
        wanted_F = frequent_F & telling_N[first_F] & edge[token_N[start_F]] & edge[token_N[start_F + n - 1]]
        number_F = np.cumsum(wanted_F) - 1 + len(names)
        forms.append(number_F[form_H[wanted_F[form_H]]])
        holders.append(text_H[wanted_F[form_H]])
        names += [_spelt(vocabulary, token_N, start_N[i], n) for i in first_F[wanted_F]]
        kept_N = frequent_F[gram_N]
        gram_N, start_N, telling_N = gram_N[kept_N], start_N[kept_N], telling_N[kept_N]
        # Two frequent n-grams that begin a word apart in one text are one of n + 1 words.
        follows = np.flatnonzero((np.diff(start_N) == 1) & (text_N[start_N[:-1]] == text_N[start_N[1:] + n - 1]))
        telling_N = telling_N[follows] | telling_N[follows + 1]
        gram_N = gram_N[follows] * (len(first_F) + 1) + gram_N[follows + 1]
        start_N = start_N[follows]
    return Held("n-gram", names, np.concatenate(forms), np.concatenate(holders))


def _spelt(vocabulary: Sequence[str], token_N: Ints, start: int, n: int) -> str:
    return " ".join(vocabulary[token_N[i]] for i in range(start, start + n))
