"""A judge's rate corrected by people: prediction-powered inference with power tuning, PPI++ (Angelopoulos, Duchi &
Zrnic 2023, arXiv:2311.01453, section 6 and equation 9).

Of N rows a judge's outcomes f are known, of n of them, drawn at random, people's Y too; N' = N − n, f' are the
others':

    rate = λ · mean(f') + mean(Y − λ f)      λ = cov(Y, f) / ((1 + n / N') var(f)), cut to 0 … 1

Whatever the judge is worth, the mean is that of people: a judge that says nothing gets λ = 0, which leaves labels
alone. As published the interval is rate ± 1.96 √(var(Y − λ f) / n + λ² var(f') / N'). With few labels, near 0 or 1,
or beside a judge that people seldom contradict it holds the truth far too seldom (63 to 82 % of the time for 30
labels of a rate of 93 %). So here, in one line each:

- the variance of Y − λ f has two pseudo-labels more, half a one in each corner of (Y, f) in {0, 1}² (Agresti & Min
  2005 for matched pairs; of a difference both methods' outcomes are spread so), and n − 2 degrees of freedom, λ
  being fitted;
- Student's t has Satterthwaite's degrees of freedom of both parts;
- the interval is Wilson's at the number of independent labels that would have this variance (rates.py).

Rows of a cluster are summed first; clusters with rows of both kinds count in both parts and in what they share.
Coverage: tests/evaluation/test_prediction_powered.py (test_coverage) and benchmarks/labels.py.

Dimension suffixes: _P all rows, _L those with labels, _U the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from trimtab.evaluation.rates import score_interval
from trimtab.evaluation.statistics import Clusters, Floats, Interval, renumbered

FEWEST = 10
"""Rows, or clusters of them, with labels below which nothing is corrected."""
PSEUDO_LABELS = 2.0
"""How many there are, spread evenly over what people and the judge could have said of a row, each by itself."""


@dataclass(frozen=True)
class Corrected:
    """value: in the outcomes' own unit. weight: λ. labelled: rows with labels, n. rows: all, N. explained: the
    squared correlation of the judge with people, 0 where it is negative: how much of their variance it tells."""

    value: float
    interval: Interval
    weight: float
    labelled: int
    rows: int
    explained: float

    def labels_for(self, half_width: float) -> int | None:
        """How many labels in all give an interval of ± half_width on the same rows; None where labels of all rows
        don't. The variance of m labels of N rows is proportional to (1 − explained) / m + explained / N."""
        now = (self.interval.high - self.interval.low) / 2
        wanted = self._shape(self.labelled) * (half_width / now) ** 2 - self.explained / self.rows
        if wanted <= 0:
            return None
        count = math.ceil((1 - self.explained) / wanted * (1 - 1e-9))
        return count if count <= self.rows else None

    def labels_to_halve(self) -> int | None:
        """How many more labels would make the interval half as wide; None where labels of all rows don't."""
        return self.more_labels_for((self.interval.high - self.interval.low) / 4)

    def more_labels_for(self, half_width: float) -> int | None:
        """How many more labels give an interval of ± half_width; None where labels of all rows don't."""
        count = self.labels_for(half_width)
        return None if count is None else max(0, count - self.labelled)

    def _shape(self, labels: int) -> float:
        return (1 - self.explained) / labels + self.explained / self.rows


def tuned_weight(labels_L: Floats, judged_L: Floats, judged_U: Floats) -> float:
    """λ of PPI++, as ppi-python estimates it: the covariance over labelled rows, the variance over all."""
    n, others = labels_L.size, judged_U.size
    variance = float(np.concatenate([judged_L, judged_U]).var(ddof=1)) if n + others > 1 else 0.0
    if not others or variance <= 0:
        return 0.0
    covariance = float(((labels_L - labels_L.mean()) * (judged_L - judged_L.mean())).mean())
    return float(np.clip(covariance / ((1 + n / others) * variance), 0.0, 1.0))


def corrected_rate(
    labels: ArrayLike,
    judged: ArrayLike,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    clusters: Clusters | None = None,
    level: float = 0.95,
) -> Corrected | None:
    """Mean of people's outcomes over all rows. labels: NaN where there is none. judged: the judge's outcome of
    every row. Both are within bounds: (0, 1), or (−1, 1) for differences of two outcomes. None for fewer than
    FEWEST labelled clusters. ValueError where a judged outcome is missing or an outcome is beyond the bounds.
    """
    low, high = bounds
    y_P, f_P = (((np.asarray(values, dtype=np.float64)) - low) / (high - low) for values in (labels, judged))
    given_P = ~np.isnan(y_P)
    if y_P.shape != f_P.shape or not np.isfinite(f_P).all():
        raise ValueError("the judge's outcome is needed of every row, as many as there are labels and gaps")
    if ((f_P < 0) | (f_P > 1)).any() or ((y_P[given_P] < 0) | (y_P[given_P] > 1)).any():
        raise ValueError(f"an outcome is outside {low:g} to {high:g}")
    units_P = np.arange(y_P.size) if clusters is None else clusters
    units = np.unique(units_P[given_P]).size
    if units < FEWEST:
        return None
    y_L, f_L, f_U = y_P[given_P], f_P[given_P], f_P[~given_P]
    weight = tuned_weight(y_L, f_L, f_U)
    value = float((y_L - weight * f_L).mean() + (weight * f_U.mean() if f_U.size else 0.0))
    could_be = np.array([0.0, 1.0] if low == 0 else [0.0, 0.5, 0.5, 1.0])
    pseudo = (could_be[:, None] - weight * could_be).ravel()
    variance, freedom = _variance(y_P, f_P, given_P, weight, pseudo, renumbered(units_P))
    z, t = float(scipy.special.ndtri((1 + level) / 2)), float(scipy.stats.t.ppf((1 + level) / 2, freedom))
    n, within = y_L.size, min(1.0, max(0.0, value))
    padded = (within * n + 2) / (n + 4)
    interval = score_interval(within, padded * (1 - padded) / variance * (z / t) ** 2, level=level)
    spread = float(y_L.var())
    correlated = float(np.corrcoef(y_L, f_L)[0, 1]) if spread > 0 and f_L.std() > 0 else 0.0
    ends = (low + end * (high - low) for end in interval.pair())
    return Corrected(low + within * (high - low), Interval(*ends), weight, n, y_P.size, max(0.0, correlated) ** 2)


def _variance(
    y_P: Floats,
    f_P: Floats,
    given_P: NDArray[np.bool_],
    weight: float,
    pseudo: Floats,
    units_P: Clusters,
) -> tuple[float, float]:
    """Of the corrected rate, and its degrees of freedom. pseudo: values of Y − λ f that could be, of which
    PSEUDO_LABELS are added."""
    n, others, count = int(given_P.sum()), int((~given_P).sum()), int(units_P.max()) + 1
    rest_L, padded_n = y_P[given_P] - weight * f_P[given_P], n + PSEUDO_LABELS
    mean = (rest_L.sum() + PSEUDO_LABELS * pseudo.mean()) / padded_n
    sums_C = np.bincount(units_P[given_P], weights=rest_L - mean, minlength=count)
    sizes_C = np.bincount(units_P[given_P], minlength=count)
    units = int((sizes_C > 0).sum())
    alike = float((sizes_C**2).sum() / n)  # the mean number of labels that a label shares its cluster with
    squares = float((sums_C**2).sum() + alike * PSEUDO_LABELS * ((pseudo - mean) ** 2).mean())
    of_labels = squares / (padded_n * n) * units / (units - 2)
    if not others or weight == 0:
        return of_labels, units - 2.0
    f_U = weight * f_P[~given_P]
    judged_C = np.bincount(units_P[~given_P], weights=f_U - f_U.mean(), minlength=count)
    judged_units = int((np.bincount(units_P[~given_P], minlength=count) > 0).sum())
    of_judge = float((judged_C**2).sum() / others**2) * judged_units / max(1, judged_units - 1)
    shared = 2 * float((sums_C * judged_C).sum()) / (n * others)
    total = of_labels + of_judge
    freedom = total**2 / (of_labels**2 / (units - 2) + of_judge**2 / max(1, judged_units - 1))
    return total + max(0.0, shared), freedom
