"""results.json of a study that was trained with several seeds; pooling.py says how numbers are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.data.audit import AuditReport
from trimtab.evaluation.outputs import MethodOutputs, align
from trimtab.evaluation.pooling import Columns, compare_seeds, pool_method
from trimtab.evaluation.results import Results, StageCurves
from trimtab.evaluation.statistics import N_RESAMPLES
from trimtab.evaluation.summary import align_all, amplified, columns, method_result, summarise, worded

SeedOutputs = Mapping[int, Sequence[MethodOutputs]]
"""By seed: the outputs of every method that was trained with it, the same methods for each."""


def summarise_seeds(
    per_seed: SeedOutputs,
    fixed: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    references: Sequence[str] = (),
    chosen_lengths: Sequence[int] = (),
    *,
    curves: Mapping[int, Mapping[str, StageCurves]] | None = None,
    audit: AuditReport | None = None,
    warnings: Sequence[str] = (),
    tolerance: float = 0.0,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    **about: Any,
) -> Results:
    """`summary.summarise`, of several seeds; with one seed it is the same.

    fixed: methods that no training seed touches, such as base, measured once. Samples and curves are the
    first seed's; lengths and the audit's shares are of all seeds together. about: summarise's other keywords.
    """
    seeds, by_seed = list(per_seed), curves or {}
    if len({tuple(sorted(m.name for m in methods)) for methods in per_seed.values()}) != 1:
        raise ValueError("every seed must have the same methods, and there must be a seed")
    options: dict[str, Any] = {"tolerance": tolerance, "seed": seed, "n_resamples": n_resamples}
    results = summarise(
        [*fixed, *per_seed[seeds[0]]],
        opponent,
        references,
        chosen_lengths,
        curves=by_seed.get(seeds[0]),
        audit=audit,
        warnings=warnings,
        **options,
        **about,
    )
    if len(seeds) == 1:
        return results
    ordered, against = align_all([*fixed, *per_seed[seeds[0]]], opponent, references, chosen_lengths)
    constant = {m.name for m in fixed}
    # A method that no seed touches has one object for all of them.
    outputs = {m.name: {s: m if m.name in constant else _aligned(per_seed[s], m) for s in seeds} for m in ordered}
    table: dict[str, Mapping[int, Columns]] = {}
    for name, found in outputs.items():
        of = {id(o): columns(o, against, chosen_lengths, tolerance) for o in found.values()}
        table[name] = {s: of[id(o)] for s, o in found.items()}
    for name in (n for n in outputs if n not in constant):
        rows = {
            s: method_result(o, against, references, chosen_lengths, **options) for s, o in outputs[name].items()
        }
        results.methods[name] = pool_method(rows, table[name], seed=seed, n_resamples=n_resamples)
        results.lengths[name] = [g.tokens for o in outputs[name].values() for g in o.generations]
    results.comparisons = compare_seeds(table, seeds, seed=seed, n_resamples=n_resamples)
    results.other_curves = {s: dict(by_seed[s]) for s in seeds[1:] if s in by_seed}
    if audit is not None:
        everyone = [o for found in outputs.values() for o in {id(o): o for o in found.values()}.values()]
        results.audit = amplified(audit, [*everyone, *([against] if against else [])])
    return worded(results, warnings)


def _aligned(methods: Sequence[MethodOutputs], like: MethodOutputs) -> MethodOutputs:
    """The method of that name, its prompts in the same order."""
    return align(next(m for m in methods if m.name == like.name), like.generations)
