"""What to doubt of labels: answers that were not drawn at random, and a judge that agrees only where lengths do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named

from trimtab.catalogue import label
from trimtab.evaluation.agreement import categories
from trimtab.evaluation.duels import Duel, Field
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.missing import ENOUGH
from trimtab.evaluation.people_result import LengthAgreement
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import Floats, holm, renumbered
from trimtab.formats import number

NOT_BY_CHANCE = 0.01
"""Of all checks of one set of labels together, after Holm's correction."""
PARTS = 3
"""Groups of votes, by how far the lengths of the answers are apart."""


def not_random(field: Field, duels: Sequence[Duel]) -> list[str]:
    """How labelled answers differ from the others by more than chance, in words; none where they don't, or where
    too few are labelled, or left, to tell. Rows of a cluster count once on either side."""
    checks = [check for duel in duels for check in _checks(field, duel)]
    adjusted = holm([p for p, _ in checks])
    return list(dict.fromkeys(text for p, (_, text) in zip(adjusted, checks, strict=True) if p < NOT_BY_CHANCE))


def _checks(field: Field, duel: Duel) -> Iterator[tuple[float, str]]:
    """A p-value by Mann-Whitney's test and a sentence of each thing that may differ."""
    given = ~np.isnan(duel.people)
    clusters = field.clusters(len(duel.judged))
    lengths, others = field.columns(duel.a, duel.b, "characters")
    scores, of_others = field.columns(duel.a, duel.b, "score")
    pair = f"{label(duel.a)} against {label(duel.b)}"
    looked_at = (
        ("the prompts are", field.columns(duel.a, duel.b, "prompt")[0], "characters long", 1.0, 0),
        (f"{pair}, the answers differ by", np.abs(lengths - others), "characters", 1.0, 0),
        (f"{pair}, the first answers are longer by", lengths - others, "characters", 1.0, 0),
        (f"{pair}, by the judge the first wins", duel.judged, "%", 100.0, 1),
        (f"{pair}, the judge's scores differ by", np.abs(scores - of_others), "", 1.0, 2),
    )
    for what, values, unit, scale, digits in looked_at:
        labelled, rest = (_of_clusters(values.ravel(), mask.ravel(), clusters) for mask in (given, ~given))
        if min(labelled.size, rest.size) < ENOUGH or np.ptp(np.concatenate([labelled, rest])) == 0:
            continue
        middle = np.mean if unit == "%" else np.median
        ours, theirs = (number(float(middle(some)), digits, scale) for some in (labelled, rest))
        where = f"{ours} {unit}".strip()
        kind = "mean" if unit == "%" else "median"
        p = float(scipy.stats.mannwhitneyu(labelled, rest).pvalue)
        yield p, f"{what} {where} where people labelled, {theirs} elsewhere ({kind})"


def _of_clusters(values: Floats, mask: np.typing.NDArray[np.bool_], clusters: np.typing.NDArray[np.intp]) -> Floats:
    """Means over each cluster's rows of the mask that have a number."""
    known = mask & ~np.isnan(values)
    if not known.any():
        return np.zeros(0)
    numbers = renumbered(clusters[known])
    return np.asarray(np.bincount(numbers, weights=values[known]) / np.bincount(numbers))


def by_length(field: Field, duels: Sequence[Duel]) -> list[LengthAgreement]:
    """How often the judge says what a vote says, and how often either prefers the longer answer, by how far the two
    answers' lengths are apart: in thirds of the votes. None without lengths or a judge, or for fewer than ENOUGH
    votes a third."""
    rows = []
    for duel in duels:
        lengths, others = field.columns(duel.a, duel.b, "characters")
        apart, judged, numbers = (lengths - others).ravel(), duel.judged.ravel(), field.clusters(len(duel.judged))
        rows += [(apart[row], judged[row], share, numbers[row]) for row, share, _ in duel.voted]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    table = table[~np.isnan(table).any(axis=1) & (table[:, 0] != 0)]
    if len(table) < PARTS * ENOUGH:
        return []
    order = np.argsort(np.abs(table[:, 0]), kind="stable")
    return [_third(part) for part in np.array_split(table[order], PARTS)]


def _third(part: Floats) -> LengthAgreement:
    apart, judged, people, clusters = part.T
    same = (categories(judged) == categories(people)).astype(float)
    numbers = renumbered(clusters.astype(np.intp))
    longer = apart > 0
    return LengthAgreement(
        low=float(np.abs(apart).min()),
        high=float(np.abs(apart).max()),
        agreement=Estimate(
            value=float(same.mean()), ci95=rate_interval(same, clusters=numbers).pair(), n=same.size
        ),
        judge_longer=float(np.where(longer, judged, 1 - judged).mean()),
        people_longer=float(np.where(longer, people, 1 - people).mean()),
    )
