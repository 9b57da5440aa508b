"""How many instructions hold: IFEval's four accuracies, and the share of each kind.

Prompt-level accuracy is the share of prompts of which all instructions hold. Instruction-level accuracy is a ratio,
Σ instructions that hold ÷ Σ instructions, whose unit of resampling is the prompt: those of one prompt are answered
together. So that it is pooled and paired as other numbers are, a prompt's part is its share in the ratio,

    r + (h_p − r · n_p) / n̄        h_p of n_p instructions hold, n̄ mean of n_p, r the ratio

whose mean is r, and whose bootstrap is that of the ratio to first order (Cochran 1977, 6.4: a ratio's
linearisation).

Dimension suffixes: _P prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel

from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.estimate import STORED, Estimate
from trimtab.evaluation.pooling import pool
from trimtab.evaluation.statistics import Floats
from trimtab.instructions.checks import IDS, Instruction, instructions_of

Mode = Literal["strict", "loose"]


class KindAccuracy(BaseModel):
    """Of one kind of instruction. n: how many there are among the test prompts. strict, loose: the share that
    holds; an estimate's own n counts prompts."""

    model_config = STORED
    n: int
    strict: Estimate
    loose: Estimate


def asked_of(records: Sequence[Record]) -> tuple[list[tuple[Instruction, ...]], str | None]:
    """The instructions of each test prompt; none at all where no row has any, or where they can't be checked. Then
    a line says why."""
    if not any(record.columns.get(IDS) for record in records):
        return [], None
    try:
        return [instructions_of(record.columns) for record in records], None
    except TrimtabError as error:
        return [], f"the test prompts' instructions are not checked: {error}"


def prompt_level(mode: Mode) -> Callable[[Answers], Floats | None]:
    """Gives a function: of each prompt 1 where all of its instructions hold, 0 where not; NaN where it has none."""

    def of(answers: Answers) -> Floats | None:
        if answers.verdicts is None:
            return None
        held_P, asked_P = counts(answers, mode)
        return np.where(asked_P > 0, held_P == asked_P, np.nan)

    return of


def instruction_level(mode: Mode, kind: str | None = None) -> Callable[[Answers], Floats | None]:
    """Gives a function: each prompt's part of the ratio, NaN where it has no instruction. kind: of one kind."""

    def of(answers: Answers) -> Floats | None:
        if answers.verdicts is None:
            return None
        held_P, asked_P = counts(answers, mode, kind)
        if not asked_P.any():
            return None
        rate = held_P.sum() / asked_P.sum()
        parts_P = rate + (held_P - rate * asked_P) / asked_P[asked_P > 0].mean()
        return np.where(asked_P > 0, parts_P, np.nan)

    return of


def counts(answers: Answers, mode: Mode, kind: str | None = None) -> tuple[Floats, Floats]:
    """How many instructions of each prompt hold, and how many it has: both [P]. kind: of one kind only."""
    of_prompts = [[v for v in of_prompt if kind in (None, v.kind)] for of_prompt in answers.verdicts or ()]
    held = [sum(getattr(verdict, mode) for verdict in of_prompt) for of_prompt in of_prompts]
    return np.array(held, dtype=np.float64), np.array([len(of) for of in of_prompts], dtype=np.float64)


def kinds_of(runs: Sequence[Answers], seeds: Sequence[int]) -> dict[str, KindAccuracy]:
    """Each kind of instruction that the test prompts have, by name, pooled over runs."""
    asked = Counter(one.kind for of_prompt in runs[0].asked for one in of_prompt)
    return {
        kind: KindAccuracy(
            n=asked[kind], strict=_kind(runs, seeds, "strict", kind), loose=_kind(runs, seeds, "loose", kind)
        )
        for kind in sorted(asked)
    }


def _kind(runs: Sequence[Answers], seeds: Sequence[int], mode: Mode, kind: str) -> Estimate:
    columns = [parts for answers in runs if (parts := instruction_level(mode, kind)(answers)) is not None]
    options = runs[0].options
    pooled = pool(
        np.stack(columns, axis=1), seeds[: len(runs)] or [0],
        rate=True, clusters=runs[0].cluster_numbers, seed=options.seed, n_resamples=options.n_resamples,
    )  # fmt: skip
    assert pooled is not None
    # One prompt tells nothing of others, unless all or none of its instructions hold: Wilson's is of that.
    known = pooled.n > 1 or pooled.mean in (0, 1)
    value = min(1.0, max(0.0, pooled.mean))  # rounding may carry it beyond
    basis = pooled.basis if known else None
    return Estimate(value=value, ci95=pooled.ci95 if known else None, n=pooled.n, seeds=pooled.spread, basis=basis)
