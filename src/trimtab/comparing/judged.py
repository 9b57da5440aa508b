"""Scores by a judge for what has none: `trimtab compare --judge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trimtab.errors import TrimtabError
from trimtab.progress import Progress
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.rewards.base import Reward


def with_scores(methods: Sequence[MethodRows], judge: Reward, description: str) -> list[MethodRows]:
    """The sources, those without any score scored by the judge, and so the opponents of their rows. Sources that
    have scores, or preferences, keep them: two judges in one column would be compared as one.

    description: of the judge, for results. TrimtabError where there is nothing to score.
    """
    chosen = [m for m in methods if not m.has_scores and not any(row.judged for row in m.rows)]
    if not chosen:
        raise TrimtabError("--judge: every source has scores or preferences of its own. Leave it out.")
    return [_scored(m, judge, description) if any(m is one for one in chosen) else m for m in methods]


def _scored(method: MethodRows, judge: Reward, description: str) -> MethodRows:
    with Progress(f"scores of {method.name}", None):
        sides = _score(judge, method.rows, [row.side for row in method.rows])
        with_other = [
            row for row in method.rows if row.opponent is not None and row.opponent.completion is not None
        ]
        others = dict(
            zip(map(id, with_other), _score(judge, with_other, [r.opponent for r in with_other]), strict=True)
        )
    rows = [
        replace(row, side=side, opponent=others.get(id(row), row.opponent))
        for row, side in zip(method.rows, sides, strict=True)
    ]
    return replace(method, rows=rows, judge=description)


def _score(judge: Reward, rows: Sequence[Row], sides: Sequence[Side | None]) -> list[Side]:
    """Each side with its score; one without a prompt or a completion has a reason for having none."""
    known = [side or Side() for side in sides]
    asked = [i for i, side in enumerate(known) if rows[i].prompt is not None and side.completion is not None]
    prompts = [str(rows[i].prompt) for i in asked]
    results = judge.scored(prompts, [str(known[i].completion) for i in asked], columns={}) if asked else []
    if len(results) != len(asked):
        raise TrimtabError(f"judge {judge.name}: {len(results)} scores for {len(asked)} completions")
    scored = [replace(side, reason="no prompt or no completion to judge") for side in known]
    for i, result in zip(asked, results, strict=True):
        reason = result.reason or ("the judge gave no score" if result.score is None else None)
        scored[i] = replace(known[i], score=result.score, reason=reason, breakdown=dict(result.breakdown))
    return scored
