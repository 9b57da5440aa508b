"""Markers: what one side of the pairs says more often than the other, and so what a model learns to say.

A *marker* is a surface form (1-5 words, or the shape of a line) that one side of the pairs holds
more often than the other. Presence is counted per completion; a pair is *discordant* for a form when
exactly one of its two completions holds it. Under "no preference for the form" the chosen side of a
discordant pair is a fair coin, so the p-value is the exact sign test (= exact McNemar), two-sided:

    p = min(1, 2 · P[Binomial(b + c, 1/2) <= min(b, c)]),   b: only chosen, c: only rejected.

Having looked at everything: forms with too few discordant pairs to ever matter are left out by
Tarone's rule (it sees b + c, never the direction, so it costs no validity); the rest are corrected by
Benjamini-Hochberg inside two families, lines and n-grams, and multiplied by 2 for the families.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from trimtab.progress import counted

MAX_WORDS = 5
MAX_LINE_CHARACTERS = 80
SAME_PHENOMENON = 0.7  # share of completions in common (Jaccard) from which two forms are one
MIN_HOLDERS = 8  # an n-gram in fewer discordant pairs cannot become significant among thousands
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*|%")

Kind = Literal["line", "n-gram"]
Form = tuple[Kind, str]


class Marker(BaseModel):
    """One form; shares are of pairs, `difference` = chosen - rejected, `ratio` = (b + ½) / (c + ½)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Kind
    text: str
    also: list[str] = []
    chosen_share: float
    rejected_share: float
    difference: float
    only_chosen: int
    only_rejected: int
    ratio: float
    p_value: float
    p_adjusted: float
    significant: bool


def normalized_words(text: str) -> list[str]:
    """The words of a text in lower case, and its "%" signs; each number as "#"."""
    return ["#" if w[0].isdigit() else w for w in _WORD.findall(text.lower())]


def line_shape(line: str) -> str:
    """A line in lower case, numbers as "#", runs of white space as one space."""
    return _NUMBER.sub("#", " ".join(line.lower().split()))


def forms(text: str, vocabulary: Set[str] | None = None) -> set[Form]:
    """Every form that the text holds: n-grams of 1 to 5 words, and lines of at most 80 characters.

    vocabulary: n-grams that contain any other word are left out; None: none are.
    """
    tokens = normalized_words(text)
    held: set[Form] = set()
    for i, token in enumerate(tokens):
        if vocabulary is not None and token not in vocabulary:
            continue
        gram = token
        held.add(("n-gram", gram))
        for following in tokens[i + 1 : i + MAX_WORDS]:
            if vocabulary is not None and following not in vocabulary:
                break
            gram = f"{gram} {following}"
            held.add(("n-gram", gram))
    shapes = (line_shape(line) for line in text.splitlines())
    held.update(("line", s) for s in shapes if s and len(s) <= MAX_LINE_CHARACTERS)
    return held


def holds(text: str, marker: Marker) -> bool:
    """Whether the text holds the marker, by the same rule that found it."""
    if marker.kind == "line":
        return any(line_shape(line) == marker.text for line in text.splitlines())
    return f" {marker.text} " in f" {' '.join(normalized_words(text))} "


def benjamini_hochberg(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values: running minimum from the largest of p_(i) · m / i (Benjamini & Hochberg 1995)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[::-1]
    m = len(p)
    adjusted = np.minimum.accumulate(p[order] * m / np.arange(m, 0, -1)) if m else p
    result = np.empty(m)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def tarone_threshold(discordant: NDArray[np.int64], alpha: float, start: int = 2) -> int:
    """Smallest k >= start whose least attainable p, 2^(1-k), survives Bonferroni over forms with >= k."""
    k = start
    while 2.0 ** (1 - k) * max(1, int((discordant >= k).sum())) > alpha:
        k += 1
    return k


@dataclass
class _TestedForm:
    form: Form
    b: int
    c: int
    p: float
    p_adjusted: float
    where: set[int] = field(default_factory=set)  # completions that hold it: 2·pair (+1 for rejected)


def _test_family(b: Counter[Form], c: Counter[Form], kind: Kind, alpha: float) -> list[_TestedForm]:
    keys = sorted(k for k in b.keys() | c.keys() if k[0] == kind)
    total = np.array([b[k] + c[k] for k in keys], dtype=np.int64)
    least = tarone_threshold(total, alpha / 2, start=MIN_HOLDERS if kind == "n-gram" else 2)
    keys = [k for k, t in zip(keys, total, strict=True) if t >= least]
    if not keys:
        return []
    n = np.array([b[k] + c[k] for k in keys])
    fewer = np.array([min(b[k], c[k]) for k in keys])
    p = np.minimum(1.0, 2 * scipy.stats.binom.cdf(fewer, n, 0.5))
    q = np.minimum(1.0, 2 * benjamini_hochberg(p))  # 2: the number of families
    return [_TestedForm(k, b[k], c[k], float(p[i]), float(q[i])) for i, k in enumerate(keys)]


def _merge(tested: list[_TestedForm], top: int) -> list[tuple[_TestedForm, list[str]]]:
    """One entry per phenomenon, named by its longest form, the most significant first.

    Forms that sit in nearly the same completions are one phenomenon: "confidence", "confidence #" and
    the line "confidence: #%". A longer form that is much less telling than the best does not stand for it.
    """
    groups: list[list[_TestedForm]] = []
    for t in sorted(tested, key=lambda t: (t.p, t.form)):
        for group in groups:
            union = len(t.where | group[0].where)
            if union and len(t.where & group[0].where) / union >= SAME_PHENOMENON:
                group.append(t)
                break
        else:
            groups.append([t])
    merged = []
    for group in groups:
        telling = [t for t in group if t.p <= 10 * group[0].p]
        best = max(telling, key=lambda t: (t.form[0] == "line", len(t.form[1].split()), len(t.form[1])))
        # The forms inside its name say more than its neighbours.
        spelt = f" {' '.join(normalized_words(best.form[1]))} "
        group.sort(key=lambda t: f" {t.form[1]} " not in spelt)
        others = [t.form[1] for t in group if t.form[1] != best.form[1]]
        merged.append((best, list(dict.fromkeys(others))[:8]))
    return sorted(merged, key=lambda entry: (entry[0].p_adjusted, entry[0].p))[:top]


def _to_marker(t: _TestedForm, also: list[str], pairs: int, alpha: float) -> Marker:
    in_chosen = sum(1 for w in t.where if w % 2 == 0)
    in_rejected = len(t.where) - in_chosen
    return Marker(
        kind=t.form[0],
        text=t.form[1],
        also=also,
        chosen_share=in_chosen / pairs,
        rejected_share=in_rejected / pairs,
        difference=(in_chosen - in_rejected) / pairs,
        only_chosen=t.b,
        only_rejected=t.c,
        ratio=(t.b + 0.5) / (t.c + 0.5),
        p_value=t.p,
        p_adjusted=t.p_adjusted,
        significant=t.p_adjusted <= alpha,
    )


def find_markers(
    pairs: Sequence[tuple[str, str]], *, alpha: float = 0.05, top: int = 20
) -> tuple[list[Marker], list[Marker], dict[str, int]]:
    """Markers of the chosen side, markers of the rejected side, number of forms tested by kind."""
    b: Counter[Form] = Counter()
    c: Counter[Form] = Counter()
    texts = (text for pair in counted("markers: words", pairs, "pairs") for text in pair)
    holders = Counter(w for text in texts for w in set(normalized_words(text)))
    common = {w for w, count in holders.items() if count >= MIN_HOLDERS}
    for chosen, rejected in counted("markers: forms", pairs, "pairs"):
        in_chosen, in_rejected = forms(chosen, common), forms(rejected, common)
        b.update(in_chosen - in_rejected)
        c.update(in_rejected - in_chosen)
    families: dict[Kind, list[_TestedForm]] = {
        "line": _test_family(b, c, "line", alpha),
        "n-gram": _test_family(b, c, "n-gram", alpha),
    }
    tested = sorted([t for family in families.values() for t in family], key=lambda t: (t.p, t.form))
    # Only the most telling are merged and shown; 20 raw forms to an entry is ample.
    kept = {t.form: t for t in tested[: 20 * top]}
    for i, (chosen, rejected) in enumerate(counted("markers: who holds them", pairs, "pairs")):
        for side, text in enumerate((chosen, rejected)):
            for form in forms(text, common) & kept.keys():
                kept[form].where.add(2 * i + side)
    sides = [[t for t in kept.values() if t.b > t.c], [t for t in kept.values() if t.b < t.c]]
    ups, downs = ([_to_marker(t, a, len(pairs), alpha) for t, a in _merge(side, top)] for side in sides)
    return ups, downs, {kind: len(family) for kind, family in families.items()}
