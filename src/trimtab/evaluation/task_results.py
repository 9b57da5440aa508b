"""Standard tasks of all methods: estimates, and differences paired by document, as for any other number.

Dimension suffixes: _D documents, _S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import DEFAULTS, Options
from trimtab.evaluation.compare import paired_difference
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.pooling import pool, pool_overall
from trimtab.evaluation.statistics import Floats, holm
from trimtab.evaluation.task_scores import TaskResult, TaskScores

Runs = Mapping[str, Sequence[TaskScores]]
"""By method, the same metric of each seed, or once for a method that no seed touches."""


def task_results(
    methods: Mapping[str, Sequence[MethodOutputs]],
    opponent: MethodOutputs | None,
    seeds: Sequence[int],
    options: Options = DEFAULTS,
) -> list[TaskResult]:
    """Every metric of every task that all methods were asked, in the order of the tasks.

    The opponent stands before the methods, unless it is one of them under another name. TrimtabError where models
    saw other documents.
    """
    asked = dict(methods)
    if opponent is not None and all(run.tasks is not opponent.tasks for runs in methods.values() for run in runs):
        asked = {opponent.name: [opponent], **methods}
    runs = [run for of_method in asked.values() for run in of_method]
    if not runs or not all(run.tasks for run in runs):
        return []
    by_run = {id(run): {(scores.task, scores.metric): scores for scores in run.tasks} for run in runs}
    everywhere = [key for key in by_run[id(runs[0])] if all(key in scores for scores in by_run.values())]
    return [
        _result({name: [by_run[id(run)][key] for run in of] for name, of in asked.items()}, seeds, options)
        for key in everywhere
    ]


def _result(runs: Runs, seeds: Sequence[int], options: Options) -> TaskResult:
    everyone = [scores for of_method in runs.values() for scores in of_method]
    first = everyone[0]
    for name, of_method in runs.items():
        if any(set(scores.documents) != set(first.documents) for scores in of_method):
            raise TrimtabError(
                f"task {first.task}: {next(iter(runs))} and {name} saw other documents, so they cannot be paired: "
                f"the task's data changed between. Remove their folders tasks/{first.task}, and run it again."
            )
    by_document = all(scores.values is not None for scores in everyone)
    share = all(scores.share for scores in everyone)
    compared = runs if by_document else {}
    columns = {name: _columns(of_method, first.documents) for name, of_method in compared.items()}
    result = TaskResult(
        task=first.task,
        metric=first.metric,
        headline=first.headline,
        higher_is_better=first.higher_is_better,
        share=share,
        by_document=by_document,
        documents=len(first.documents),
        version=first.version,
        shots=first.shots,
    )
    clusters = first.clusters if by_document else None
    for name, of_method in runs.items():
        estimate = _estimate(of_method, columns.get(name), seeds, options)
        if estimate is not None:
            result.methods[name] = estimate
    pairs = [
        paired_difference(
            later,
            earlier,
            first.metric,
            columns[later],
            columns[earlier],
            rate=share,
            bounds=(-1.0, 1.0) if share else None,
            seeds=seeds,
            options=options,
            clusters=clusters,
        )
        for earlier, later in combinations(columns, 2)
    ]
    result.comparisons = [pair for pair in pairs if pair is not None]
    for pair, p in zip(result.comparisons, holm([pair.p_value for pair in result.comparisons]), strict=True):
        pair.p_holm = p
    return result


def _estimate(
    of_method: Sequence[TaskScores], values_DS: Floats | None, seeds: Sequence[int], options: Options
) -> Estimate | None:
    """Of one method, pooled over its seeds. values_DS: None where the number is no mean over documents."""
    if values_DS is None:
        numbers = [Estimate(value=scores.number) for scores in of_method]
        return pool_overall(numbers, seeds[: len(numbers)])
    pooled = pool(
        values_DS,
        seeds[: len(of_method)] or [0],
        rate=all(scores.share for scores in of_method),
        clusters=of_method[0].clusters,
        seed=options.seed,
        n_resamples=options.n_resamples,
    )
    if pooled is None:
        return None
    return Estimate(value=pooled.mean, ci95=pooled.ci95, n=pooled.n, seeds=pooled.spread, basis=pooled.basis)


def _columns(of_method: Sequence[TaskScores], documents: Sequence[str]) -> Floats:
    """Documents × seeds, in this order of documents."""
    columns = []
    for scores in of_method:
        assert scores.values is not None
        place = {name: i for i, name in enumerate(scores.documents)}
        columns.append(scores.values[[place[name] for name in documents]])
    return np.stack(columns, axis=1)
