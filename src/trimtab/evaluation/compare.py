"""Every pair of methods on every metric that pairs are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from trimtab.evaluation.answers import DEFAULTS, Answers, Options
from trimtab.evaluation.difference import Difference
from trimtab.evaluation.estimate import Interval95
from trimtab.evaluation.metrics import Metric, paired_metrics
from trimtab.evaluation.missing import missing_of
from trimtab.evaluation.pooling import pool
from trimtab.evaluation.results import Comparison
from trimtab.evaluation.sign_flips import sign_flip_p_value
from trimtab.evaluation.statistics import Clusters, Floats, holm


def matrix(metric: Metric, runs: Sequence[Answers]) -> Floats | None:
    """Prompts × seeds, NaN where a value is missing; None where some seed does not know the metric."""
    columns = [None if metric.per_prompt is None else metric.per_prompt(answers) for answers in runs]
    complete = [column for column in columns if column is not None]
    return np.stack(complete, axis=1) if len(complete) == len(columns) else None


def compare(
    answers: Mapping[str, Sequence[Answers]],
    seeds: Sequence[int],
    options: Options = DEFAULTS,
    opponent: Answers | None = None,
    metrics: Sequence[Metric] | None = None,
) -> list[Comparison]:
    """Later method - earlier, so that a gain is positive, over the prompts that both answered.

    answers: by method, of each seed, or one for a method that no seed touches. `p_holm` corrects for all the
    pairs that are compared on the same metric. opponent: stands before the methods in metrics that say so, unless
    it is one of them, whose pairs would count twice. metrics: None for all that pairs are compared by.
    """
    comparisons: list[Comparison] = []
    if any(run.outputs.is_opponent for runs in answers.values() for run in runs):
        opponent = None
    clusters = next(iter(answers.values()))[0].cluster_numbers if answers else None
    for metric in paired_metrics() if metrics is None else metrics:
        compared = dict(answers)
        among = options.with_opponent and metric.name != "win_rate"  # of itself that is a half
        if opponent is not None and metric.paired is not None and (metric.paired.opponent or among):
            compared = {opponent.outputs.name: [opponent], **compared}
        values = {name: matrix(metric, runs) for name, runs in compared.items()}
        pairs = (
            _difference(metric, later, earlier, values, seeds, options, clusters)
            for earlier, later in combinations(compared, 2)
        )
        rows = [row for row in pairs if row is not None]
        for row, p in zip(rows, holm([row.p_value for row in rows]), strict=True):
            row.p_holm = p
        comparisons += rows
    return comparisons


def _difference(
    metric: Metric,
    later: str,
    earlier: str,
    values: Mapping[str, Floats | None],
    seeds: Sequence[int],
    options: Options,
    clusters: Clusters | None,
) -> Comparison | None:
    a_PS, b_PS = values[later], values[earlier]
    if a_PS is None or b_PS is None:
        return None
    found = paired_difference(
        later,
        earlier,
        metric.name,
        a_PS,
        b_PS,
        rate=metric.range is not None and metric.range.rate,
        bounds=metric.bounds(a_PS, b_PS, difference=True),
        seeds=seeds,
        options=options,
        clusters=clusters,
    )
    if found is None:
        return None
    missing, bounds = missing_of(metric, a_PS, b_PS)
    return Comparison(**(dict(found) | {"missing": missing, "missing_bounds": bounds}))


def paired_difference(
    later: str,
    earlier: str,
    metric: str,
    a_PS: Floats,
    b_PS: Floats,
    *,
    rate: bool,
    bounds: Interval95 | None,
    seeds: Sequence[int],
    options: Options = DEFAULTS,
    clusters: Clusters | None = None,
) -> Difference | None:
    """a − b with its interval and p-value; None where nothing is known of both.

    later, earlier: names of a and b. a_PS, b_PS: prompts × seeds, NaN where missing; a method that no seed touches
    has one column, which is compared with each seed's of the other. rate, bounds, clusters: see `pool`.
    """
    difference_PS = a_PS - b_PS
    pooled = pool(
        difference_PS,
        seeds[: difference_PS.shape[1]] or [0],
        rate=rate,
        bounds=bounds,
        reach=_reach(a_PS, b_PS),
        clusters=clusters,
        seed=options.seed,
        n_resamples=options.n_resamples,
    )
    if pooled is None:
        return None
    return Difference(
        a=later,
        b=earlier,
        metric=metric,
        difference=pooled.mean,
        ci95=pooled.ci95,
        p_value=sign_flip_p_value(
            pooled.parts_P, clusters=pooled.clusters_P, seed=options.seed, n_resamples=options.n_resamples
        ),
        n=pooled.n,
        seeds=pooled.spread,
        basis=pooled.basis,
    )


def _reach(a_PS: Floats, b_PS: Floats) -> tuple[float, float] | None:
    """The largest differences that values as they were seen could have."""
    if np.isnan(a_PS).all() or np.isnan(b_PS).all():
        return None
    return float(np.nanmin(a_PS) - np.nanmax(b_PS)), float(np.nanmax(a_PS) - np.nanmin(b_PS))
