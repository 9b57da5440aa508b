"""Outputs of a method that no model made, for tests by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.evaluation.answers import Options
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score
from trimtab.evaluation.results import Results
from trimtab.evaluation.summary import About, StudyOutputs, summarise


def make(
    name: str, scores: Sequence[float | None], tokens: int = 4, correctness: Sequence[float | None] = ()
) -> MethodOutputs:
    """A completion "a b c d" for each score; None is a failed one."""
    ids = [f"p{i}" for i in range(len(scores))]
    parts = [{"correctness": c} if c is not None else {} for c in correctness] or [{} for _ in ids]
    return MethodOutputs(
        name,
        [Generation(id=i, prompt=f"ask {i}", completion="a b c d", tokens=tokens, terminated=True) for i in ids],
        [
            Score(id=i, score=s, reason=None if s is not None else "timeout", breakdown=part)
            for i, s, part in zip(ids, scores, parts, strict=True)
        ],
    )


def in_own_words(method: MethodOutputs) -> MethodOutputs:
    """The same method with answers that no other gives, of 12 characters."""
    for generation in method.generations:
        generation.completion = f"{method.name:12.12}"
    return method


def study(
    methods: Sequence[MethodOutputs] | Mapping[int, Sequence[MethodOutputs]],
    opponent: MethodOutputs | None,
    references: Sequence[str] = (),
    chosen_lengths: Sequence[int] = (),
    fixed: Sequence[MethodOutputs] = (),
    n_resamples: int = 10_000,
    **about: Any,
) -> Results:
    """Results of the methods, of one seed or by seed."""
    per_seed = methods if isinstance(methods, Mapping) else {0: methods}
    outputs = StudyOutputs(per_seed, fixed, opponent, references, chosen_lengths)
    return summarise(outputs, About(**{"name": "t"} | about), Options(n_resamples=n_resamples))


def stored(**groups: Any) -> MethodResult:
    """A method's numbers, in the groups of results.json."""
    return MethodResult.model_validate(groups)
