"""Scores of a model's completions by the judge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trimtab.data.records import Record, columns_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import (
    PREFERENCES,
    SCORES,
    Generation,
    Score,
    read_generations,
    read_measured,
    write_measured,
    write_rows,
)
from trimtab.notices import warn
from trimtab.progress import Progress
from trimtab.rewards.base import OPPONENT_COLUMN, Reward, Scored


def judge_completions(
    judge: Reward, test: Sequence[Record], folder: Path, opponent: Sequence[Generation] = ()
) -> None:
    """Scores the folder's generations.jsonl and writes scores.jsonl; by a judge that compares, preferences.jsonl.

    opponent: its answers to the same rows, for such a judge.
    """
    started = time.monotonic()
    generations = read_generations(folder / "generations.jsonl")
    file = PREFERENCES if judge.compares else SCORES
    with Progress(f"scores by {judge.name}", None):
        scores = score_all(judge, test, generations, opponent)
    write_rows(folder / file, scores)
    _warn_of_scores(scores, "judgement" if judge.compares else "score", file)
    measured = read_measured(folder)
    measured.seconds += time.monotonic() - started
    write_measured(folder, measured)


def _warn_of_scores(scores: Sequence[Score], what: str, file: str) -> None:
    """Of those that are missing, and of scores that tell no completion from another."""
    reasons = Counter(s.reason for s in scores if s.score is None)
    if reasons:
        (reason, count), *others = reasons.most_common()
        more = f", and {len(others)} other reasons ({file})" if others else ""
        lacking = f"{reasons.total()} of {len(scores)} completions have no {what} ({count} × {reason}{more})"
        warn(lacking, about="missing scores")
    numbers = [s.score for s in scores if s.score is not None]
    if len(numbers) > 1 and min(numbers) == max(numbers):
        warn(
            f"all {len(numbers)} {what}s are {numbers[0]:g}: they tell no completion from another",
            about="equal scores",
        )


def score_all(
    judge: Reward,
    records: Sequence[Record],
    generations: Sequence[Generation],
    opponent: Sequence[Generation] = (),
) -> list[Score]:
    """A score or a reason for each, with its parts. records: of the prompts; a function gets their columns, as in
    training. opponent: its answers, in any order, for a judge that compares."""
    prompts = [record.prompt for record in records]
    columns = dict(columns_of(records))
    if judge.compares:
        others = {answer.id: answer.completion for answer in opponent}
        columns[OPPONENT_COLUMN] = [others[g.id] for g in generations]
    results = judge.scored(prompts, [g.completion for g in generations], columns=columns)
    if len(results) != len(generations):
        raise TrimtabError(f"judge {judge.name}: {len(results)} scores for {len(generations)} completions")
    return [score_of(g.id, result) for g, result in zip(generations, results, strict=True)]


def score_of(answer_id: str, result: Scored) -> Score:
    """A reward's answer as a row."""
    reason = result.reason or ("the judge gave no score" if result.score is None else None)
    return Score(id=answer_id, score=result.score, reason=reason, breakdown=dict(result.breakdown))
