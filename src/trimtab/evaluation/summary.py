"""From the outputs of every method to results.json: measures nothing twice, trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from trimtab.catalogue import ordered_methods
from trimtab.data.audit import AuditReport, amplification
from trimtab.evaluation.behaviours import behaviours
from trimtab.evaluation.bleu import corpus_bleu
from trimtab.evaluation.length_control import length_controlled_win_rate
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score, align, check_unique
from trimtab.evaluation.results import (
    METRICS,
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
)
from trimtab.evaluation.statistics import (
    N_RESAMPLES,
    Floats,
    bootstrap_interval,
    holm,
    paired_difference,
)
from trimtab.evaluation.verdict import mostly_missing, verdict, warnings_of
from trimtab.evaluation.win_rate import outcomes, win_rate

__all__ = ["Generation", "MethodOutputs", "Score", "compare", "method_result", "summarise"]


def _scores(outputs: MethodOutputs) -> list[float | None]:
    return [s.score for s in outputs.scores] if outputs.scores else [None] * len(outputs.generations)


def _correctness(outputs: MethodOutputs) -> Floats | None:
    """The judge's correctness of each completion, NaN where it failed; None unless every score has one."""
    parts = [s.breakdown.get("correctness") if s.score is not None else np.nan for s in outputs.scores]
    values = [float(x) for x in parts if isinstance(x, (int, float)) and not isinstance(x, bool)]
    found = np.array(values, dtype=np.float64)
    return found if len(values) == len(parts) and not np.isnan(found).all() else None


def columns(
    outputs: MethodOutputs, opponent: MethodOutputs | None, chosen_lengths: Sequence[int], tolerance: float
) -> dict[Metric, Floats]:
    """Per prompt, NaN where missing: outcome against the opponent, the judge's score, tokens, tokens above
    the chosen completion's (never below 0), the judge's correctness. Only the metrics that are known."""
    scores = _scores(outputs)
    tokens = np.array([g.tokens for g in outputs.generations], dtype=np.float64)
    found: dict[Metric, Floats] = {
        "judge_score": np.array([np.nan if s is None else s for s in scores], dtype=np.float64),
        "length": tokens,
    }
    if opponent is not None:
        found["win_rate"] = outcomes(scores, _scores(opponent), tolerance=tolerance)
    if chosen_lengths:
        found["excess_length"] = np.maximum(0, tokens - np.asarray(chosen_lengths, dtype=np.float64))
    correct = _correctness(outputs)
    if correct is not None:
        found["correctness"] = correct
    return found


def _mean_score(column: Floats | None, seed: int, n_resamples: int) -> MeanScore | None:
    known = np.array([]) if column is None else column[~np.isnan(column)]
    if not known.size:
        return None
    interval = bootstrap_interval(known, seed=seed, n_resamples=n_resamples)
    return MeanScore(mean=float(known.mean()), ci95=interval.pair(), n=known.size)


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
    found = columns(outputs, opponent, chosen_lengths, tolerance)
    mean = partial(_mean_score, seed=seed, n_resamples=n_resamples)
    result = MethodResult(
        judge_score=mean(found["judge_score"]),
        excess_length=mean(found.get("excess_length")),
        correctness=mean(found.get("correctness")),
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


def compare(
    methods: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    chosen_lengths: Sequence[int] = (),
    *,
    tolerance: float = 0.0,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> list[Comparison]:
    """Every pair of methods on every metric, paired over the prompts that both answered."""
    known = {m.name: columns(m, opponent, chosen_lengths, tolerance) for m in methods}

    def pair(a: str, b: str, metric: Metric) -> Comparison | None:
        x, y = known[a].get(metric), known[b].get(metric)
        both = None if x is None or y is None else ~(np.isnan(x) | np.isnan(y))
        if x is None or y is None or both is None or not both.any():
            return None
        d = paired_difference(x[both], y[both], seed=seed, n_resamples=n_resamples)
        found = {"difference": d.difference, "ci95": d.interval.pair(), "p_value": d.p_value, "n": d.n}
        return Comparison(a=a, b=b, metric=metric, **found)

    return all_pairs(list(known), pair)


def all_pairs(names: Sequence[str], pair: Callable[[str, str, Metric], Comparison | None]) -> list[Comparison]:
    """Later method - earlier, so that a gain is positive. `p_holm` corrects for all the pairs that were
    compared on the same metric."""
    found: list[Comparison] = []
    for metric in METRICS:
        rows = [row for b, a in combinations(names, 2) if (row := pair(a, b, metric)) is not None]
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


def amplified(audit: AuditReport, everyone: Sequence[MethodOutputs]) -> AuditReport:
    """The audit, with the share of each one's outputs that hold each marker; a name may come for each seed."""
    outputs: dict[str, list[str]] = {}
    for m in everyone:
        outputs.setdefault(m.name, []).extend(g.completion for g in m.generations)
    return audit.model_copy(update={"amplification": amplification(audit, outputs)})


def align_all(
    methods: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    references: Sequence[str],
    chosen_lengths: Sequence[int],
) -> tuple[list[MethodOutputs], MethodOutputs | None]:
    """Methods in their order, every row of them and of the opponent in the same order of prompts."""
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
    ordered, against = align_all(methods, opponent, references, chosen_lengths)
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
        comparisons=compare(
            ordered, against, chosen_lengths, tolerance=tolerance, seed=seed, n_resamples=n_resamples
        ),
        lengths={m.name: [g.tokens for g in m.generations] for m in everyone},
        curves=dict(curves or {}),
        samples=_samples(everyone, references, samples),
        data=dict(data or {}),
        provenance=provenance or Provenance(),
    )
    if chosen_lengths:
        results.lengths["chosen"] = [int(n) for n in chosen_lengths]
    if audit is not None:
        results.audit = amplified(audit, everyone)
    return worded(results, warnings)


def correct_against_opponent(results: Results) -> None:
    """Holm's correction of the claims against the opponent, by the standard of those between methods: for as many
    as there are pairs of methods, or methods where these are more."""
    rated = [m.win_rate for m in results.methods.values() if m.win_rate is not None]
    tested = [w for w in rated if w.p_value is not None]
    pairs = sum(c.metric == "win_rate" for c in results.comparisons)
    others = [1.0] * max(0, pairs - len(tested))
    adjusted = holm([*(w.p_value for w in tested if w.p_value is not None), *others])
    for one, p in zip(tested, adjusted, strict=False):
        one.p_holm = p


def worded(results: Results, warnings: Sequence[str]) -> Results:
    """With its warnings, these first (but for missing scores), and its verdict."""
    correct_against_opponent(results)
    results.warnings = [*mostly_missing(results), *warnings, *warnings_of(results)]
    results.verdict = verdict(results)
    results.summary = results.verdict[0] if results.verdict else ""
    return results
