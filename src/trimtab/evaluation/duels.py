"""Two methods on the same prompts, as a judge and as people saw them: what labels are set beside.

Dimension suffixes: _SP training seeds × prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trimtab.evaluation.answers import Answers, scores_of
from trimtab.evaluation.statistics import Clusters, Floats
from trimtab.evaluation.votes import Vote
from trimtab.evaluation.win_rate import outcomes


@dataclass(frozen=True)
class Field:
    """Everybody whose answers may be labelled. runs: by method, of each training seed, or one that no seed touches;
    the opponent stands first. seeds: in the order of runs."""

    runs: Mapping[str, Sequence[Answers]]
    seeds: Sequence[int]
    tolerance: float = 0.0

    @property
    def _any(self) -> Answers:
        return next(iter(self.runs.values()))[0]

    @cached_property
    def places(self) -> dict[str, int]:
        """Each prompt's number, by its id."""
        return {answer.id: i for i, answer in enumerate(self._any.outputs.generations)}

    def shape(self, a: str, b: str) -> tuple[int, int]:
        """Training seeds and prompts of two methods."""
        return max(len(self.runs[a]), len(self.runs[b])), len(self.places)

    def pair(self, a: str, b: str, seed: int) -> tuple[Answers, Answers]:
        """Both methods' answers by the number of a seed; where one has an opponent of its own, that one."""
        ours, theirs = (self.runs[name][seed if len(self.runs[name]) > 1 else 0] for name in (a, b))
        if ours.outputs.opponent is not None and ours.outputs.opponent.name == b:
            theirs = Answers(ours.outputs.opponent)
        if theirs.outputs.opponent is not None and theirs.outputs.opponent.name == a:
            ours = Answers(theirs.outputs.opponent)
        return ours, theirs

    def judged(self, a: str, b: str) -> Floats:
        """What the judge says of a against b, NaN where it says nothing: _SP."""
        return np.stack([self._outcomes(*self.pair(a, b, seed)) for seed in range(self.shape(a, b)[0])])

    def _outcomes(self, a: Answers, b: Answers) -> Floats:
        if a.opponent is not None and a.opponent.name == b.outputs.name:
            known = a.outcomes
        elif b.opponent is not None and b.opponent.name == a.outputs.name:
            known = None if b.outcomes is None else 1 - b.outcomes
        else:
            known = outcomes(scores_of(a.outputs), scores_of(b.outputs), tolerance=self.tolerance)
        return np.full(len(self.places), np.nan) if known is None else known

    def columns(self, a: str, b: str, column: str) -> tuple[Floats, Floats]:
        """A number of every answer of both, _SP: "characters", "score" or "prompt" (its characters); NaN where it
        is not known."""
        pairs = [self.pair(a, b, seed) for seed in range(self.shape(a, b)[0])]
        ours, theirs = (np.stack([_numbers(of_pair[side], column) for of_pair in pairs]) for side in (0, 1))
        return ours, theirs

    def clusters(self, seeds: int) -> Clusters:
        """Of each row of a flattened _SP, the number of its cluster of prompts."""
        return np.tile(self._any.cluster_numbers, seeds)


def _numbers(run: Answers, column: str) -> Floats:
    values: Sequence[float | None]
    if column == "score":
        values = scores_of(run.outputs)
    elif column == "prompt":
        values = [len(text) or None for text in run.prompts]
    else:
        values = [answer.characters for answer in run.outputs.generations]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def in_order(
    runs: Mapping[str, Sequence[Answers]], opponent: Answers | None, start: str | None = None
) -> dict[str, Sequence[Answers]]:
    """The opponent first, or each method's own; then what the others are set beside."""
    own = [Answers(run.opponent) for of in runs.values() for run in of if run.opponent is not None]
    first = [opponent] if opponent is not None else own
    ordered: dict[str, Sequence[Answers]] = {}
    for answers in first:
        if answers.outputs.name not in runs:
            ordered.setdefault(answers.outputs.name, [answers])
    if start is not None and start in runs:
        ordered[start] = runs[start]
    return ordered | dict(runs)


@dataclass(frozen=True)
class Duel:
    """a against b. judged, people: of each answer, the share that a won: _SP, NaN where it is not known. people:
    the mean of the persons', ½ for ties that nobody was asked about. voted: (row of the flattened _SP, share,
    person) of each person's view of a row."""

    a: str
    b: str
    judged: Floats
    people: Floats
    voted: Sequence[tuple[int, float, str]]


def duels_of(field: Field, votes: Sequence[Vote], ties: Sequence[Vote] = ()) -> list[Duel]:
    """A duel for each two methods that were labelled; the one that stands later is a. Several votes of one person
    on the same answers count as their mean. ties: nobody's, of identical answers (votes.Labels)."""
    order = {name: i for i, name in enumerate(field.runs)}
    views: dict[tuple[str, str], dict[tuple[int, str], list[float]]] = {}
    for vote in votes:
        a, b, row = _place(field, order, vote)
        share = vote.share if a == vote.first else 1 - vote.share
        views.setdefault((a, b), {}).setdefault((row, vote.person), []).append(share)
    tied: dict[tuple[str, str], list[int]] = {}
    for vote in ties:
        a, b, row = _place(field, order, vote)
        tied.setdefault((a, b), []).append(row)
    found = []
    for (a, b), of_pair in sorted(views.items(), key=lambda item: (order[item[0][1]], order[item[0][0]])):
        voted = [(row, float(np.mean(shares)), person) for (row, person), shares in of_pair.items()]
        rows, values = np.array([v[0] for v in voted]), np.array([v[1] for v in voted])
        size = int(np.prod(field.shape(a, b)))
        counts = np.bincount(rows, minlength=size)
        sums = np.bincount(rows, weights=values, minlength=size)
        people = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        people[tied.get((a, b), [])] = 0.5
        found.append(Duel(a, b, field.judged(a, b), people.reshape(field.shape(a, b)), voted))
    return found


def _place(field: Field, order: Mapping[str, int], vote: Vote) -> tuple[str, str, int]:
    """The later method, the earlier one, and the row of their flattened _SP."""
    a, b = sorted((vote.first, vote.second), key=order.__getitem__, reverse=True)
    seeds, prompts = field.shape(a, b)
    number = field.seeds.index(vote.seed) if vote.seed is not None and seeds > 1 else 0
    return a, b, number * prompts + field.places[vote.id]
