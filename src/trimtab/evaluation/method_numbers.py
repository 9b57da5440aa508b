"""From one method's answers to its numbers: every metric of the table, pooled over training seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.evaluation.answers import DEFAULTS, Answers, Options
from trimtab.evaluation.behaviours import behaviours
from trimtab.evaluation.compare import matrix
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.instruction_accuracy import kinds_of
from trimtab.evaluation.method_result import BleuSignature, LengthEffect, MethodResult
from trimtab.evaluation.metrics import METRICS, Measure, Metric
from trimtab.evaluation.missing import missing_by_length
from trimtab.evaluation.pooling import Pooled, pool, pool_overall
from trimtab.evaluation.sign_flips import sign_flip_p_value
from trimtab.evaluation.win_rate import WinCounts, count_outcomes


def method_result(runs: Sequence[Answers], seeds: Sequence[int], options: Options = DEFAULTS) -> MethodResult:
    """runs: one for each seed; one for a method that no seed touches, whose seeds may be empty."""
    estimates = {metric.name: estimate_of(metric, runs, seeds, options) for metric in METRICS.values()}
    counts = win_counts(runs, seeds, options)
    rate = estimates["win_rate"]
    if rate is not None and counts is not None:
        rate.n = counts.n  # all seeds' judgements, as the counts beside it
    return MethodResult(
        estimates={name: estimate for name, estimate in estimates.items() if estimate is not None},
        win_counts=counts,
        length_effect=_length_effect(runs),
        bleu_signature=_bleu_signature(runs),
        behaviours=_mean_behaviours(runs),
        instructions=kinds_of(runs, seeds),
    )


def estimate_of(
    metric: Metric, runs: Sequence[Answers], seeds: Sequence[int], options: Options = DEFAULTS
) -> Estimate | None:
    """One metric of one method, pooled over its runs; None where it is not known. The opponent itself has no win
    rate: against itself it is a half, whatever it answers."""
    if metric.name == "win_rate" and all(run.outputs.is_opponent for run in runs):
        return None
    if metric.overall is not None:
        return _overall(metric, metric.overall, runs, seeds)
    pooled = _pooled(metric, runs, seeds, options)
    if pooled is None:
        return None
    value = pooled.mean
    if metric.range is not None and metric.range.certain:
        value = min(metric.range.high, max(metric.range.low, value))  # rounding may carry a mean beyond it
    if metric.doubt == "interval":
        return Estimate(value=value, ci95=pooled.ci95, n=pooled.n, seeds=pooled.spread, basis=pooled.basis)
    return Estimate(value=value, seeds=pooled.spread)


def _pooled(metric: Metric, runs: Sequence[Answers], seeds: Sequence[int], options: Options) -> Pooled | None:
    values_PS = matrix(metric, runs)
    if values_PS is None:
        return None
    return pool(
        values_PS,
        seeds[: len(runs)] or [0],
        rate=metric.range is not None and metric.range.rate,
        bounds=metric.bounds(values_PS),
        clusters=runs[0].cluster_numbers,
        seed=options.seed,
        n_resamples=options.n_resamples,
    )


def _overall(metric: Metric, measure: Measure, runs: Sequence[Answers], seeds: Sequence[int]) -> Estimate | None:
    numbers = [measure(answers) for answers in runs]
    by_seed = [Estimate(value=number) if isinstance(number, (int, float)) else number for number in numbers]
    estimate = pool_overall(by_seed, seeds[: len(runs)], metric.bounds())
    if estimate is not None and metric.doubt == "none":
        return Estimate(value=estimate.value)
    return estimate


def win_counts(runs: Sequence[Answers], seeds: Sequence[int], options: Options = DEFAULTS) -> WinCounts | None:
    """What stands behind the win rate; None where nothing was judged against an opponent."""
    outcomes = [answers.outcomes for answers in runs if answers.is_judged and answers.outcomes is not None]
    if not outcomes:
        return None
    pooled, p_value = _pooled(METRICS["win_rate"], runs, seeds, options), None
    if pooled is not None:
        p_value = sign_flip_p_value(
            pooled.parts_P - 0.5,
            clusters=pooled.clusters_P,
            seed=options.seed,
            n_resamples=options.n_resamples,
        )
    return count_outcomes(outcomes, p_value)


def _length_effect(runs: Sequence[Answers]) -> LengthEffect | None:
    fits = [answers.length_controlled for answers in runs if answers.length_controlled is not None]
    told = [*(warning for fit in fits for warning in fit.warnings), *filter(None, map(missing_by_length, runs))]
    if not fits and not told:
        return None
    effects = [fit.length_effect for fit in fits if fit.length_effect is not None]
    return LengthEffect(
        length_effect=float(np.mean(effects)) if effects else None,
        difficulty=runs[0].difficulty_from,
        overlap=min((fit.overlap for fit in fits), default=None),
        extrapolated=any(fit.extrapolated for fit in fits),
        warnings=list(dict.fromkeys(told)),
    )


def _bleu_signature(runs: Sequence[Answers]) -> BleuSignature | None:
    return next((BleuSignature(signature=run.bleu.signature) for run in runs if run.bleu is not None), None)


def _mean_behaviours(runs: Sequence[Answers]) -> dict[str, float | None]:
    shares = [behaviours(answers.prompts, answers.texts) for answers in runs if answers.texts is not None]
    means: dict[str, float | None] = {}
    if not shares:
        return means
    for name in shares[0]:
        applicable = [share for by_name in shares if (share := by_name[name]) is not None]
        means[name] = float(np.mean(applicable)) if applicable else None
    return means
