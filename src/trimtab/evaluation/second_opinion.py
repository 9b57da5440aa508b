"""What a second judge says of the same completions: its win rates, its mean scores, and paired differences.

They are worked out as the judge's own are, and stand beside them. No verdict follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from trimtab.evaluation.answers import Answers, Options
from trimtab.evaluation.compare import compare
from trimtab.evaluation.method_numbers import estimate_of
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import SecondJudge

SAID = ("win_rate", "judge_score")
"""The metrics that follow from scores alone."""


def second_opinion(
    judge: SecondJudge,
    runs: Mapping[str, Sequence[Answers]],
    seeds: Sequence[int],
    options: Options,
    opponent: Answers | None,
) -> SecondJudge:
    """The judge with its numbers. runs: each method's answers by training seed, whose outputs have the judge's
    scores among their `second_scores`. Its p-values are corrected over its own pairs."""

    def by_it(answers: Answers) -> Answers:
        return scored_by(judge.name, answers)

    judged = {name: [by_it(answers) for answers in of_method] for name, of_method in runs.items()}
    among = any(run.outputs.is_opponent for of_method in runs.values() for run in of_method)
    alone = {opponent.outputs.name: [by_it(opponent)]} if opponent is not None and not among else {}
    everyone = dict(judged) | alone
    estimates = {
        name: {
            metric: estimate
            for metric in SAID
            if (estimate := estimate_of(METRICS[metric], of_method, seeds, options)) is not None
        }
        for name, of_method in everyone.items()
    }
    against = by_it(opponent) if opponent is not None else None
    comparisons = compare(judged, seeds, options, against, [METRICS[metric] for metric in SAID])
    scores = [score.score for of in everyone.values() for run in of for score in run.outputs.scores]
    counts = {"missing": scores.count(None), "asked": len(scores)}
    return judge.model_copy(update={"estimates": estimates, "comparisons": comparisons} | counts)


def scored_by(judge: str, answers: Answers) -> Answers:
    """The answers as if a second judge, by its name, were the only one."""
    opponent = answers.opponent and _scored_by(judge, answers.opponent)
    return replace(answers, outputs=_scored_by(judge, answers.outputs), opponent=opponent)


def _scored_by(judge: str, outputs: MethodOutputs) -> MethodOutputs:
    """The outputs as if this judge were the only one."""
    return replace(outputs, scores=outputs.second_scores.get(judge, []), preferences=[], judgements=[])
