"""How much more a judge gives answers of its own family than others do, who judged the same answers.

Over the prompts that both judged, of the family's answers:

    excess = (win rate by the judge) - (win rate by a second judge, or by people)

paired by prompt, with the interval of any paired difference. Where the opponent is of the family, its win rate is
what the methods lose, a prompt's mean over them. A judge that is no more than noisy draws rates to a half, too: an
excess says that the two part on these answers, not why. That judges prefer their own answers: Panickssery et al.
2024, arXiv 2404.13076. tests/evaluation/test_self_preference.py plants an excess of known size, and finds it.

Dimension suffixes: _PS prompts × seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.evaluation.answers import Answers, Options
from trimtab.evaluation.compare import paired_difference
from trimtab.evaluation.duels import Field, duels_of, in_order
from trimtab.evaluation.judge_card import STUDY_MODELS, THE_OPPONENT, SelfPreference
from trimtab.evaluation.second_opinion import scored_by
from trimtab.evaluation.statistics import Floats
from trimtab.evaluation.study_outputs import Answered
from trimtab.evaluation.votes import Labels

PEOPLE = "people"


@dataclass(frozen=True)
class _Both:
    """One method against its opponent, by the judge and by somebody else, whose name is `by`: _PS."""

    method: str
    opponent: str
    by: str
    judge: Floats
    other: Floats


def self_preferences(
    answered: Answered,
    relatives: Sequence[str],
    second_judges: Sequence[str],
    labels: Labels | None,
    options: Options,
) -> list[SelfPreference]:
    """Of each relative that only one side of its pairs is, beside each second judge and beside people; none where
    nobody else judged. relatives: as of judge_card.relatives_of. second_judges: by name."""
    if not relatives:
        return []
    found = []
    both = [*_by_second_judges(answered, second_judges), *_by_people(answered, labels, options)]
    for by in dict.fromkeys(one.by for one in both):
        pairs = [(one, *_of_family(one, relatives)) for one in both if one.by == by]
        for one in (one for one, ours, theirs in pairs if ours and not theirs):
            found.append(_excess(one.method, by, one.judge, one.other, answered, options))
        lost = [one for one, ours, theirs in pairs if theirs and not ours]
        for opponent in dict.fromkeys(one.opponent for one in lost):
            judge, other = _lost([one for one in lost if one.opponent == opponent])
            found.append(_excess(opponent, by, judge, other, answered, options))
    return [one for one in found if one is not None]


def _of_family(pair: _Both, relatives: Sequence[str]) -> tuple[bool, bool]:
    """Whether the method is of the judge's family, and whether its opponent is."""
    method = pair.method in relatives or STUDY_MODELS in relatives
    return method, pair.opponent in relatives or THE_OPPONENT in relatives


def _excess(
    own: str, by: str, judge_PS: Floats, other_PS: Floats, answered: Answered, options: Options
) -> SelfPreference | None:
    known = ~np.isnan(judge_PS) & ~np.isnan(other_PS)
    if not known.any():
        return None
    found = paired_difference(
        own, by, "win_rate", judge_PS, other_PS,
        rate=True, bounds=(-1.0, 1.0), seeds=answered.seeds, options=options,
        clusters=next(iter(answered.runs.values()))[0].cluster_numbers,
    )  # fmt: skip
    if found is None:
        return None
    return SelfPreference(
        own=own,
        by=by,
        judge=float(judge_PS[known].mean()),
        other=float(other_PS[known].mean()),
        excess=found.estimate,
    )


def _lost(pairs: Sequence[_Both]) -> tuple[Floats, Floats]:
    """What the opponent wins of these methods by the judge and by the other: a prompt's mean over methods and
    seeds, where both are known, [P, 1] each."""
    judge, other = (np.concatenate([getattr(one, side) for one in pairs], axis=1) for side in ("judge", "other"))
    known = ~np.isnan(judge) & ~np.isnan(other)
    counts = known.sum(axis=1)
    sums = (np.where(known, 1 - each, 0.0).sum(axis=1) for each in (judge, other))
    one, another = (np.where(counts > 0, total / np.maximum(counts, 1), np.nan)[:, None] for total in sums)
    return one, another


def _by_second_judges(answered: Answered, names: Sequence[str]) -> Iterator[_Both]:
    for name in names:
        for method, runs in answered.runs.items():
            others = [scored_by(name, run) for run in runs]
            known = all(run.is_judged for run in (*runs, *others))
            if known and runs[0].opponent is not None:
                yield _Both(method, runs[0].opponent.name, name, _columns(runs), _columns(others))


def _columns(runs: Sequence[Answers]) -> Floats:
    return np.stack([run.outcomes for run in runs if run.outcomes is not None], axis=1)


def _by_people(answered: Answered, labels: Labels | None, options: Options) -> Iterator[_Both]:
    if labels is None:
        return
    field = Field(in_order(answered.runs, answered.opponent), answered.seeds, options.tolerance)
    for duel in duels_of(field, labels.votes):
        runs = answered.runs.get(duel.a, [])
        if runs and runs[0].opponent is not None and runs[0].opponent.name == duel.b:
            yield _Both(duel.a, duel.b, PEOPLE, duel.judged.T, duel.people.T)
