"""Scores of a model's completions by the judge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trimtab.data.records import Record, columns_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import (
    Generation,
    Score,
    read_generations,
    read_measured,
    write_measured,
    write_rows,
)
from trimtab.notices import warn
from trimtab.progress import Progress
from trimtab.rewards.base import Reward


def judge_completions(judge: Reward, test: Sequence[Record], folder: Path) -> None:
    """Scores the folder's generations.jsonl and writes scores.jsonl."""
    started = time.monotonic()
    generations = read_generations(folder / "generations.jsonl")
    with Progress(f"scores by {judge.name}", None):
        scores = score_all(judge, test, generations)
    write_rows(folder / "scores.jsonl", scores)
    _warn_of_scores(scores)
    measured = read_measured(folder)
    measured.seconds += time.monotonic() - started
    write_measured(folder, measured)


def _warn_of_scores(scores: Sequence[Score]) -> None:
    """Of those that are missing, and of scores that tell no completion from another."""
    reasons = Counter(s.reason for s in scores if s.score is None)
    if reasons:
        (reason, count), *others = reasons.most_common()
        more = f", and {len(others)} other reasons (scores.jsonl)" if others else ""
        lacking = f"{reasons.total()} of {len(scores)} completions have no score ({count} × {reason}{more})"
        warn(lacking, about="missing scores")
    numbers = [s.score for s in scores if s.score is not None]
    if len(numbers) > 1 and min(numbers) == max(numbers):
        warn(
            f"all {len(numbers)} scores are {numbers[0]:g}: they tell no completion from another",
            about="equal scores",
        )


def score_all(judge: Reward, records: Sequence[Record], generations: Sequence[Generation]) -> list[Score]:
    """A score or a reason for each, with its parts. records: of the prompts; a function gets their columns, as in
    training."""
    prompts = [record.prompt for record in records]
    results = judge.scored(prompts, [g.completion for g in generations], columns=columns_of(records))
    if len(results) != len(generations):
        raise TrimtabError(f"judge {judge.name}: {len(results)} scores for {len(generations)} completions")
    return [
        Score(
            id=g.id,
            score=result.score,
            reason=result.reason or ("the judge gave no score" if result.score is None else None),
            breakdown=dict(result.breakdown),
        )
        for g, result in zip(generations, results, strict=True)
    ]
