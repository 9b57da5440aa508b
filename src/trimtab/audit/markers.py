"""Markers: what one side of the pairs says more often than the other, and so what a model learns to say.

A *marker* is a surface form (1-5 words that are not all function words, or the shape of a line) that one side of
the pairs holds more often than the other. Presence is counted per completion; a pair is *discordant* for a form
when exactly one of its two completions holds it.

**Lengths are allowed for.** Where the longer completion is preferred, whatever long texts hold would pass for a
marker. So the preference for length is fitted over all pairs, P(chosen) = σ(γ · log(words + 1 of the one / of the
other)), and the chance that a discordant pair's holder is the chosen one, if only lengths matter, is σ(γ · its log
ratio), without the form's own words as far as these make it the longer: a marker that lengthens a text is not its
length. That γ is fitted on the tested pairs too can only make the test milder. Under "no preference for the form"
the number b of pairs whose chosen completion holds it, of b + c discordant ones, is a sum of coins with these
chances. The p-value is two-sided and exact for coins with their mean chance p̄, which have the heavier tails
(Hoeffding 1956):

    p = min(1, 2 · min(P[Binomial(b + c, p̄) <= b], P[Binomial(b + c, p̄) >= b]))

With γ = 0 that is the exact sign test (= exact McNemar).

Having looked at everything: forms with too few discordant pairs to ever matter are left out by
Tarone's rule (it sees b + c, never the direction, so it costs no validity); the rest are corrected by
Benjamini-Hochberg inside two families, lines and n-grams, and multiplied by 2 for the families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from trimtab.audit.forms import Held, Ints, Kind, held_lines, held_ngrams, line_shape, normalized_words
from trimtab.progress import counted

SAME_PHENOMENON = 0.7  # share of completions in common (Jaccard) from which two forms are one
MIN_HOLDERS = 8  # an n-gram in fewer discordant pairs cannot become significant among thousands
SLOPE_DEVIATION = 2.0  # of the prior of the preference for length, normal about 0: few pairs say little
Floats = NDArray[np.float64]


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
    expected_chosen: float | None = None
    """What only_chosen would be on average if only lengths mattered; None in results of earlier versions."""
    ratio: float
    p_value: float
    p_adjusted: float
    significant: bool


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


def length_preference(log_ratio_P: Floats) -> float:
    """γ: how much the longer completion is preferred, the posterior mode under the prior of SLOPE_DEVIATION.

    log_ratio_P: of each pair, the chosen completion's length over the rejected one's."""
    found = scipy.optimize.minimize_scalar(
        lambda slope: float(np.logaddexp(0.0, -slope * log_ratio_P).sum() + 0.5 * (slope / SLOPE_DEVIATION) ** 2)
    )
    return float(found.x)


@dataclass
class _TestedForm:
    """b, c: discordant pairs whose chosen, whose rejected completion holds it. expected: b by lengths alone."""

    kind: Kind
    text: str
    b: int
    c: int
    expected: float
    p: float
    p_adjusted: float
    where: Ints  # completions that hold it: 2·pair (+1 for rejected)


def _test_family(held: Held, lengths: Ints, slope: float, alpha: float) -> list[_TestedForm]:
    """The forms of a kind that could be significant, tested. lengths: words of each text. slope: γ."""
    forms, pair_H = len(held.names), held.text_of // 2
    own_F = np.array([len(_words_of(name)) for name in held.names], dtype=np.int64)
    alone_H = np.ones(len(pair_H), dtype=bool)
    both = (np.diff(held.form_of) == 0) & (np.diff(pair_H) == 0)
    alone_H[:-1] &= ~both
    alone_H[1:] &= ~both
    form_H, text_H = held.form_of[alone_H], held.text_of[alone_H]
    rejected_H, other_H = text_H % 2, text_H ^ 1  # a pair's texts are neighbours, the chosen one even
    total_F = np.bincount(form_H, minlength=forms)
    of_holder_H, of_other_H = lengths[text_H], lengths[other_H]
    without_H = np.maximum(of_holder_H - own_F[form_H], np.minimum(of_holder_H, of_other_H))
    log_ratio_H = np.log1p(without_H) - np.log1p(of_other_H)
    chance_H = scipy.special.expit(slope * log_ratio_H)
    b_F = np.bincount(form_H[rejected_H == 0], minlength=forms)
    expected_F = np.bincount(form_H, weights=chance_H, minlength=forms)
    least = tarone_threshold(total_F, alpha / 2, start=MIN_HOLDERS if held.kind == "n-gram" else 2)
    kept = np.flatnonzero(total_F >= least)
    n, b, expected = total_F[kept], b_F[kept], expected_F[kept]
    coins = scipy.stats.binom(n, expected / n)
    p = np.minimum(1.0, 2 * np.minimum(coins.cdf(b), coins.sf(b - 1)))
    q = np.minimum(1.0, 2 * benjamini_hochberg(p))  # 2: the number of families
    bounds = np.searchsorted(held.form_of, np.arange(forms + 1))
    return [
        _TestedForm(
            held.kind, held.names[f], int(b[i]), int(n[i] - b[i]), float(expected[i]), float(p[i]), float(q[i]),
            held.text_of[bounds[f] : bounds[f + 1]],
        )
        for i, f in enumerate(kept)
    ]  # fmt: skip


def _merge(tested: list[_TestedForm], texts: int, top: int) -> list[tuple[_TestedForm, list[str]]]:
    """One entry per phenomenon, named by its longest form, the most significant first.

    Forms that sit in nearly the same completions are one phenomenon: "confidence", "confidence #" and
    the line "confidence: #%". A longer form that is much less telling than the best does not stand for it.
    """
    tested = sorted(tested, key=lambda t: (t.p, t.kind, t.text))
    held = np.zeros((len(tested), texts), dtype=np.float32)
    for i, t in enumerate(tested):
        held[i, t.where] = 1
    common, size = held @ held.T, held.sum(1)
    alike = common >= SAME_PHENOMENON * (size[:, None] + size[None, :] - common)
    groups: list[list[int]] = []
    for i in range(len(tested)):
        of_one = next((group for group in groups if alike[i, group[0]]), None)
        if of_one is None:
            groups.append([i])
        else:
            of_one.append(i)
    merged = [_named([tested[i] for i in group]) for group in groups]
    return sorted(merged, key=lambda entry: (entry[0].p_adjusted, entry[0].p))[:top]


def _named(group: list[_TestedForm]) -> tuple[_TestedForm, list[str]]:
    """The form that stands for a group, the most significant first, and the texts of others."""
    telling = [t for t in group if t.p <= 10 * group[0].p]
    best = max(telling, key=lambda t: (t.kind == "line", len(t.text.split()), len(t.text)))
    # The forms inside its name say more than its neighbours.
    spelt = f" {' '.join(_words_of(best.text))} "
    ordered = sorted(group, key=lambda t: f" {t.text} " not in spelt)
    return best, list(dict.fromkeys(t.text for t in ordered if t.text != best.text))[:8]


def _words_of(form: str) -> list[str]:
    """The words of a form, each "#" a number again."""
    return normalized_words(form.replace("#", "0"))


def _to_marker(t: _TestedForm, also: list[str], pairs: int, alpha: float) -> Marker:
    in_rejected = int((t.where % 2).sum())
    in_chosen = len(t.where) - in_rejected
    return Marker(
        kind=t.kind,
        text=t.text,
        also=also,
        chosen_share=in_chosen / pairs,
        rejected_share=in_rejected / pairs,
        difference=(in_chosen - in_rejected) / pairs,
        only_chosen=t.b,
        only_rejected=t.c,
        expected_chosen=t.expected,
        ratio=(t.b + 0.5) / (t.c + 0.5),
        p_value=t.p,
        p_adjusted=t.p_adjusted,
        significant=t.p_adjusted <= alpha,
    )


def find_markers(
    pairs: Sequence[tuple[str, str]], *, alpha: float = 0.05, top: int = 20
) -> tuple[list[Marker], list[Marker], dict[str, int]]:
    """Markers of the chosen side, markers of the rejected side, number of forms tested by kind."""
    texts = [text for pair in counted("markers", pairs, "pairs") for text in pair]
    words = [normalized_words(text) for text in texts]
    lengths = np.array([len(text) for text in words], dtype=np.int64)
    slope = length_preference(np.log1p(lengths[0::2]) - np.log1p(lengths[1::2]))
    families = [
        _test_family(held, lengths, slope, alpha) for held in (held_lines(texts), held_ngrams(words, MIN_HOLDERS))
    ]
    tested = sorted((t for family in families for t in family), key=lambda t: (t.p, t.kind, t.text))
    # Only the most telling are merged and shown; 20 raw forms to an entry is ample.
    kept = tested[: 20 * top]
    # More often than on the other side, and more often than lengths explain.
    ups = [t for t in kept if t.b > max(t.c, t.expected)]
    downs = [t for t in kept if t.b < min(t.c, t.expected)]
    found = [
        [_to_marker(t, also, len(pairs), alpha) for t, also in _merge(side, len(texts), top)]
        for side in (ups, downs)
    ]
    return found[0], found[1], dict(zip(("line", "n-gram"), map(len, families), strict=True))
