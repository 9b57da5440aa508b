"""Outputs of a method that no model made, for tests by hand."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.evaluation.outputs import Generation, MethodOutputs, Score


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
