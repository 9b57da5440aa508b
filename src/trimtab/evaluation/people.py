"""What people's labels say of methods and of their judge: agreement, corrected win rates and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from trimtab.evaluation.agreement import Agreement, categories, of_many, of_two
from trimtab.evaluation.answers import DEFAULTS, Answers, Options
from trimtab.evaluation.duels import Duel, Field, duels_of, in_order
from trimtab.evaluation.estimate import INDEPENDENT, THESE_SEEDS, Basis, Estimate
from trimtab.evaluation.label_checks import by_length, not_random
from trimtab.evaluation.people_result import CorrectedNumber, People, RaterAgreement
from trimtab.evaluation.prediction_powered import corrected_rate
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import Clusters, Floats, renumbered
from trimtab.evaluation.voters import voting_of
from trimtab.evaluation.votes import Labels

FIVE_POINTS = 0.05
RANDOM = "The labelled answers were drawn at random from all."


def people_of(
    labels: Labels,
    runs: Mapping[str, Sequence[Answers]],
    opponent: Answers | None,
    seeds: Sequence[int],
    options: Options = DEFAULTS,
    start: str | None = None,
) -> People:
    """Everything that labels say. runs: by method, of each training seed. start: the method that others are set
    beside, where it is not the opponent."""
    field = Field(in_order(runs, opponent, start), list(seeds), options.tolerance)
    duels = duels_of(field, labels.votes, labels.ties)
    asked = {(vote.id, vote.seed) for vote in labels.votes}
    return People(
        source=labels.source,
        votes=len(labels.votes),
        persons=len({vote.person for vote in labels.votes}),
        prompts=len({key for key, _ in asked}),
        agreement=[*_judge_agreement(field, duels, options.seed), *_people_agreement(field, duels, options.seed)],
        lengths=by_length(field, duels),
        numbers=[*(_rate(field, duel) for duel in duels), *_differences(field, duels)],
        not_random=not_random(field, duels),
        told=list(labels.told),
        ties=len(labels.ties),
        voting=voting_of(labels.cast) if labels.cast else None,
    )


def _judge_agreement(field: Field, duels: Sequence[Duel], seed: int) -> list[RaterAgreement]:
    judge, people, clusters = [], [], []
    for duel in duels:
        outcome, numbers = duel.judged.ravel(), field.clusters(len(duel.judged))
        for row, share, _ in duel.voted:
            if not np.isnan(outcome[row]):
                judge.append(outcome[row])
                people.append(share)
                clusters.append(numbers[row])
    if not judge:
        return []
    a, b = np.array(judge), np.array(people)
    found = of_two(a, b, renumbered(np.array(clusters)), seed=seed)
    table = np.zeros((3, 3), dtype=int)
    np.add.at(table, (categories(b), categories(a)), 1)
    return [_agreement("judge", found, table.tolist())]


def _people_agreement(field: Field, duels: Sequence[Duel], seed: int) -> list[RaterAgreement]:
    """Of two persons Cohen's kappa too."""
    views: dict[tuple[int, int], dict[str, float]] = {}
    numbers: dict[tuple[int, int], int] = {}
    for i, duel in enumerate(duels):
        clusters = field.clusters(len(duel.judged))
        for row, share, person in duel.voted:
            views.setdefault((i, row), {})[person] = share
            numbers[i, row] = int(clusters[row])
    several = {unit: said for unit, said in views.items() if len(said) > 1}
    if not several:
        return []
    clusters = renumbered(np.array([numbers[unit] for unit in several]))
    persons = sorted({person for said in several.values() for person in said})
    if len(persons) == 2:
        first, second = (np.array([said[person] for said in several.values()]) for person in persons)
        return [_agreement("people", of_two(first, second, clusters, seed=seed))]
    counts_UV = np.zeros((len(several), 3))
    for unit, said in enumerate(several.values()):
        np.add.at(counts_UV[unit], categories(np.array(list(said.values()))), 1.0)
    found = of_many(counts_UV, clusters, seed=seed)
    return [] if found is None else [_agreement("people", found)]


def _agreement(who: str, found: Agreement, table: list[list[int]] | None = None) -> RaterAgreement:
    numbers = {"raw": found.raw, "kappa": found.kappa, "alpha": found.alpha}
    return RaterAgreement.model_validate({"who": who, "table": table or []} | numbers)


def _rate(field: Field, duel: Duel) -> CorrectedNumber:
    return _number("rate", duel.a, duel.b, duel.people, duel.judged, (0.0, 1.0), field)


def _differences(field: Field, duels: Sequence[Duel]) -> list[CorrectedNumber]:
    """Of two methods that were both labelled against the same one, over answers to the same prompts."""
    found = []
    for one, other in combinations(duels, 2):
        if one.b != other.b:
            continue
        shape = np.broadcast_shapes(one.people.shape, other.people.shape)
        people, judged = (np.broadcast_to(y - x, shape) for x, y in (
            (one.people, other.people), (one.judged, other.judged),
        ))  # fmt: skip
        if not np.isnan(people).all():
            found.append(_number("difference", other.a, one.a, people, judged, (-1.0, 1.0), field))
    return found


def _number(
    kind: str,
    a: str,
    b: str,
    people_SP: Floats,
    judged_SP: Floats,
    bounds: tuple[float, float],
    field: Field,
) -> CorrectedNumber:
    """Over the seeds that have labels."""
    has_labels = ~np.isnan(people_SP).all(axis=1)
    people, judged = people_SP[has_labels].ravel(), judged_SP[has_labels].ravel()
    clusters = field.clusters(int(has_labels.sum()))
    labelled, seen = ~np.isnan(people), ~np.isnan(judged)
    numbers: dict[str, object] = {
        "kind": kind, "a": a, "b": b, "labelled": int(labelled.sum()), "rows": int(seen.sum()),
        "labels": _plain(people[labelled], clusters[labelled], bounds, RANDOM),
    }  # fmt: skip
    if seen.any():
        numbers["judge"] = _plain(judged[seen], clusters[seen], bounds)
        found = corrected_rate(people[seen], judged[seen], bounds=bounds, clusters=renumbered(clusters[seen]))
        if found is not None:
            both = labelled & seen
            basis = _basis("prediction_powered", clusters[both], RANDOM)
            numbers["corrected"] = Estimate(
                value=found.value, ci95=found.interval.pair(), n=found.rows, basis=basis
            )
            numbers |= {
                "labelled": found.labelled,
                "weight": found.weight,
                "more_to_halve": found.labels_to_halve(),
                "more_for_five": found.more_labels_for(FIVE_POINTS),
            }
    elif labelled.any():
        numbers["more_for_five"] = _more_alone(people[labelled], clusters[labelled], bounds)
    return CorrectedNumber.model_validate(numbers)


def _more_alone(values: Floats, clusters: Clusters, bounds: tuple[float, float]) -> int:
    """How many more make an interval of labels alone ± 5 points: its width goes by the root of their number."""
    ends = rate_interval(values, bounds=bounds, clusters=renumbered(clusters))
    needed = math.ceil(values.size * ((ends.high - ends.low) / 2 / FIVE_POINTS) ** 2)
    return max(0, needed - values.size)


def _plain(values: Floats, clusters: Clusters, bounds: tuple[float, float], *assumptions: str) -> Estimate:
    interval = rate_interval(values, bounds=bounds, clusters=renumbered(clusters)).pair()
    basis = _basis("wilson_effective_n", clusters, *assumptions)
    return Estimate(value=float(values.mean()), ci95=interval, n=values.size, basis=basis)


def _basis(method: str, clusters: Clusters, *assumptions: str) -> Basis:
    units = int(np.unique(clusters).size)
    unit = "prompts" if units == clusters.size else "clusters of rows"
    return Basis(
        method=method,
        unit=unit,
        units=units,
        assumptions=[INDEPENDENT.format(unit.capitalize()), *assumptions, THESE_SEEDS],
    )
