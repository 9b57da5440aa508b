"""From the outputs of every method to results.json: measures nothing twice, trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from trimtab.data.audit import AuditReport, amplification
from trimtab.evaluation.behaviours import behaviours
from trimtab.evaluation.bleu import corpus_bleu
from trimtab.evaluation.length_control import length_controlled_win_rate
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score, align, check_unique
from trimtab.evaluation.results import (
    Comparison,
    Length,
    MeanScore,
    MethodResult,
    Metric,
    Provenance,
    Results,
    Sample,
    SplitCounts,
    StageCurves,
    ordered_methods,
)
from trimtab.evaluation.statistics import (
    N_RESAMPLES,
    Floats,
    bootstrap_interval,
    holm,
    paired_difference,
)
from trimtab.evaluation.verdict import verdict, warnings_of
from trimtab.evaluation.win_rate import outcomes, win_rate

__all__ = ["Generation", "MethodOutputs", "Score", "compare", "method_result", "summarise"]


def _scores(outputs: MethodOutputs) -> list[float | None]:
    return [s.score for s in outputs.scores] if outputs.scores else [None] * len(outputs.generations)


def _judge_score(outputs: MethodOutputs, seed: int, n_resamples: int) -> MeanScore | None:
    scored = [s for s in _scores(outputs) if s is not None]
    if not scored:
        return None
    interval = bootstrap_interval(scored, seed=seed, n_resamples=n_resamples)
    return MeanScore(mean=float(np.mean(scored)), ci95=interval.pair(), n=len(scored))


def method_result(
    outputs: MethodOutputs,
    opponent: MethodOutputs | None,
    references: Sequence[str],
    chosen_lengths: Sequence[int],
    *,
    tolerance: float = 0.0,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> MethodResult:
    """One method's row. Everything is aligned already; references and chosen lengths may be empty."""
    texts = [g.completion for g in outputs.generations]
    tokens = [g.tokens for g in outputs.generations]
    result = MethodResult(
        judge_score=_judge_score(outputs, seed, n_resamples),
        bleu=corpus_bleu(texts, references) if references else None,
        perplexity=outputs.perplexity,
        bits_per_byte=outputs.bits_per_byte,
        length=Length(
            mean=float(np.mean(tokens)),
            median=float(np.median(tokens)),
            chosen_mean=float(np.mean(chosen_lengths)) if chosen_lengths else None,
        ),
        terminated=float(np.mean([g.terminated for g in outputs.generations])),
        behaviours=behaviours([g.prompt for g in outputs.generations], texts),
    )
    if opponent is not None and outputs.scores and opponent.scores:
        mine, theirs = _scores(outputs), _scores(opponent)
        result.win_rate = win_rate(mine, theirs, tolerance=tolerance, seed=seed, n_resamples=n_resamples)
        result.length_controlled_win_rate = length_controlled_win_rate(
            outcomes(mine, theirs, tolerance=tolerance),
            [len(t) for t in texts],
            [len(g.completion) for g in opponent.generations],
            seed=seed,
        )
    return result


def _columns(outputs: MethodOutputs, opponent: MethodOutputs | None, tolerance: float) -> dict[Metric, Floats]:
    """Per prompt: outcome against the opponent, judge's score, tokens; NaN where missing."""
    scores = _scores(outputs)
    columns: dict[Metric, Floats] = {
        "judge_score": np.array([np.nan if s is None else s for s in scores], dtype=np.float64),
        "length": np.array([g.tokens for g in outputs.generations], dtype=np.float64),
    }
    if opponent is not None:
        columns["win_rate"] = outcomes(scores, _scores(opponent), tolerance=tolerance)
    return columns


def compare(
    methods: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    *,
    tolerance: float = 0.0,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> list[Comparison]:
    """Every pair of methods (later - earlier, so that a gain is positive) on every metric.

    `p_holm` corrects for all the pairs that were compared on the same metric.
    """
    columns = {m.name: _columns(m, opponent, tolerance) for m in methods}
    found: list[Comparison] = []
    metrics: tuple[Metric, ...] = ("win_rate", "judge_score", "length")
    for metric in metrics:
        rows: list[Comparison] = []
        for b, a in combinations(columns, 2):
            if metric not in columns[a]:
                continue
            x, y = columns[a][metric], columns[b][metric]
            both = ~(np.isnan(x) | np.isnan(y))
            if not both.any():
                continue
            d = paired_difference(x[both], y[both], seed=seed, n_resamples=n_resamples)
            rows.append(
                Comparison(
                    a=a,
                    b=b,
                    metric=metric,
                    difference=d.difference,
                    ci95=d.interval.pair(),
                    p_value=d.p_value,
                    n=d.n,
                )
            )
        for row, p in zip(rows, holm([r.p_value for r in rows]), strict=True):
            row.p_holm = p
        found += rows
    return found


def _samples(all_outputs: Sequence[MethodOutputs], references: Sequence[str], count: int) -> list[Sample]:
    """Prompts spread evenly over the evaluation set: not picked, so not flattering."""
    n = len(all_outputs[0].generations)
    picks = sorted({int(i) for i in np.linspace(0, n - 1, min(count, n))})
    return [
        Sample(
            prompt=all_outputs[0].generations[i].prompt,
            chosen=references[i] if references else None,
            completions={m.name: m.generations[i].completion for m in all_outputs},
            scores={m.name: _scores(m)[i] for m in all_outputs},
        )
        for i in picks
    ]


def _amplified(audit: AuditReport, everyone: Sequence[MethodOutputs]) -> AuditReport:
    """The audit, with the share of each one's outputs that hold each marker."""
    outputs = {m.name: [g.completion for g in m.generations] for m in everyone}
    return audit.model_copy(update={"amplification": amplification(audit, outputs)})


def _aligned(
    methods: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    references: Sequence[str],
    chosen_lengths: Sequence[int],
) -> tuple[list[MethodOutputs], MethodOutputs | None]:
    if not methods:
        raise ValueError("no method to summarise")
    # The opponent and the chosen texts share tables with the methods, so a name stands for one of them.
    taken = ["chosen"] if opponent is None else ["chosen", opponent.name]
    check_unique([*(m.name for m in methods), *taken], "names of methods, opponent and chosen")
    first = opponent if opponent is not None else methods[0]
    template = first.generations
    if not template:
        raise ValueError(f"generations of {first.name}: none")
    for name, given in (("references", references), ("chosen_lengths", chosen_lengths)):
        if given and len(given) != len(template):
            raise ValueError(f"{name}: {len(given)} for {len(template)} prompts of {first.name}")
    by_name = {m.name: m for m in methods}
    ordered = [align(by_name[name], template) for name in ordered_methods(by_name)]
    return ordered, None if opponent is None else align(opponent, template)


def summarise(
    methods: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    references: Sequence[str] = (),
    chosen_lengths: Sequence[int] = (),
    *,
    name: str,
    judge: str | None = None,
    training_reward: str | None = None,
    audit: AuditReport | None = None,
    curves: Mapping[str, StageCurves] | None = None,
    data: Mapping[str, SplitCounts] | None = None,
    provenance: Provenance | None = None,
    warnings: Sequence[str] = (),
    tolerance: float = 0.0,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    samples: int = 6,
) -> Results:
    """Results of a study.

    references and chosen_lengths (tokens) follow the order of the opponent's generations, or of the first
    method's where there is no opponent; both may be empty. `warnings` come first, before those found here.
    """
    ordered, against = _aligned(methods, opponent, references, chosen_lengths)
    everyone = ordered if against is None else [*ordered, against]

    row = partial(
        method_result,
        opponent=against,
        references=references,
        chosen_lengths=chosen_lengths,
        tolerance=tolerance,
        seed=seed,
        n_resamples=n_resamples,
    )
    results = Results(
        name=name,
        opponent=None if against is None else against.name,
        judge=judge,
        training_reward=training_reward,
        methods={m.name: row(m) for m in ordered},
        opponent_result=None if against is None else row(against),
        comparisons=compare(ordered, against, tolerance=tolerance, seed=seed, n_resamples=n_resamples),
        lengths={m.name: [g.tokens for g in m.generations] for m in everyone},
        curves=dict(curves or {}),
        samples=_samples(everyone, references, samples),
        data=dict(data or {}),
        provenance=provenance or Provenance(),
    )
    if chosen_lengths:
        results.lengths["chosen"] = [int(n) for n in chosen_lengths]
    if audit is not None:
        results.audit = _amplified(audit, everyone)
    results.warnings = [*warnings, *warnings_of(results)]
    results.verdict = verdict(results)
    results.summary = results.verdict[0] if results.verdict else ""
    return results
