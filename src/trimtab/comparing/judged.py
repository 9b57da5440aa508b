"""Scores, or preferences, by a judge for what has none: `trimtab compare --judge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trimtab.comparing.join import asked_of_rows
from trimtab.data.records import Record, columns_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import MethodOutputs, Score
from trimtab.evaluation.scoring import score_of
from trimtab.evaluation.summary import StudyOutputs
from trimtab.progress import Progress
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.rewards.base import OPPONENT_COLUMN, Reward, Scored

if TYPE_CHECKING:
    from trimtab.rewards.settings_base import RewardSettings


def with_sides(methods: Sequence[MethodRows]) -> list[MethodRows]:
    """The sources, for a judge that compares: a row that holds an opponent's answer is against that one, whether it
    has scores or not."""
    return [
        replace(m, rows=[replace(row, judged=row.judged or _has_both(row)) for row in m.rows]) if _bare(m) else m
        for m in methods
    ]


def _has_both(row: Row) -> bool:
    return row.side.completion is not None and row.opponent is not None and row.opponent.completion is not None


def _bare(method: MethodRows) -> bool:
    return not method.has_scores and not method.has_opponent


def prefer(outputs: StudyOutputs, judge: Reward, asked: Mapping[str, Record]) -> None:
    """Preferences of every method that has none yet, nor scores, by a judge that compares it with its opponent.
    asked: the prompts, by the answers' ids. TrimtabError where there is no such method."""
    methods = [*outputs.fixed, *(made for of_seed in outputs.per_seed.values() for made in of_seed)]
    pairs = [(made, against) for made in methods if (against := made.opponent or outputs.opponent) is not None]
    chosen = [(made, against) for made, against in pairs if _unjudged(made, against)]
    if not chosen:
        raise TrimtabError("--judge: every source has scores or preferences of its own. Leave it out.")
    for made, against in chosen:
        with Progress(f"preferences of {made.name}", None):
            made.judge_by(compared(judge, made, against, asked))


def _unjudged(made: MethodOutputs, against: MethodOutputs) -> bool:
    known = any(preference is not None for preference in made.preferences)
    return not known and not (made.scores and against.scores)


def compared(
    judge: Reward, made: MethodOutputs, against: MethodOutputs, prompts: Mapping[str, Record]
) -> list[Score]:
    """A judgement of each prompt, or why there is none. prompts: by the answers' ids."""
    others = {answer.id: answer.completion for answer in against.generations}
    asked = [
        answer
        for answer in made.generations
        if answer.prompt and answer.completion is not None and others.get(answer.id) is not None
    ]
    records = [prompts[answer.id] for answer in asked]
    columns = columns_of(records) | {OPPONENT_COLUMN: [others[answer.id] for answer in asked]}
    texts = [str(answer.completion) for answer in asked]
    results = judge.scored([record.prompt for record in records], texts, columns=columns) if asked else []
    found = {answer.id: result for answer, result in zip(asked, results, strict=True)}
    lacking = Scored(None, "no prompt, or no completion of one side")
    return [score_of(answer.id, found.get(answer.id, lacking)) for answer in made.generations]


def with_scores(methods: Sequence[MethodRows], judge: Reward, settings: RewardSettings) -> list[MethodRows]:
    """The sources, those without any score scored by the judge, and so the opponents of their rows. Sources that
    have scores, or preferences, keep them: two judges in one column would be compared as one.

    settings: of the judge. TrimtabError where there is nothing to score, or where it can't read the rows.
    """
    chosen = [m for m in methods if not m.has_scores and not any(row.judged for row in m.rows)]
    if not chosen:
        raise TrimtabError("--judge: every source has scores or preferences of its own. Leave it out.")
    description = settings.describe()
    wanted = [any(method is one for one in chosen) for method in methods]
    prompts = [asked if want else [] for want, asked in zip(wanted, asked_of_rows(methods), strict=True)]
    for method, asked in zip(methods, prompts, strict=True):
        settings.check_rows([replace(record, origin=method.origin) for record in asked if record is not None])
    return [
        _scored(method, asked, judge, description) if want else method
        for want, method, asked in zip(wanted, methods, prompts, strict=True)
    ]


def _scored(method: MethodRows, asked: Sequence[Record | None], judge: Reward, description: str) -> MethodRows:
    """asked: of each row its prompt, where that is known."""
    with Progress(f"scores of {method.name}", None):
        sides = _score(judge, asked, [row.side for row in method.rows])
        with_other = [
            i
            for i, row in enumerate(method.rows)
            if row.opponent is not None and row.opponent.completion is not None
        ]
        opponents = [method.rows[i].opponent for i in with_other]
        others = dict(zip(with_other, _score(judge, [asked[i] for i in with_other], opponents), strict=True))
    rows = [
        replace(row, side=side, opponent=others.get(i, row.opponent))
        for i, (row, side) in enumerate(zip(method.rows, sides, strict=True))
    ]
    return replace(method, rows=rows, judge=description)


def _score(judge: Reward, asked: Sequence[Record | None], sides: Sequence[Side | None]) -> list[Side]:
    """Each side with its score; one without a prompt or a completion has a reason for having none."""
    known = [side or Side() for side in sides]
    records = {
        i: record for i, record in enumerate(asked) if record is not None and known[i].completion is not None
    }
    texts, columns = [str(known[i].completion) for i in records], columns_of(list(records.values()))
    prompts = [record.prompt for record in records.values()]
    results = judge.scored(prompts, texts, columns=columns) if records else []
    if len(results) != len(records):
        raise TrimtabError(f"judge {judge.name}: {len(results)} scores for {len(records)} completions")
    scored = [replace(side, reason="no prompt or no completion to judge") for side in known]
    for i, result in zip(records, results, strict=True):
        reason = result.reason or ("the judge gave no score" if result.score is None else None)
        scored[i] = replace(known[i], score=result.score, reason=reason, breakdown=dict(result.breakdown))
    return scored
