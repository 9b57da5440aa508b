"""What a search found: the winner on prompts that no trial has seen, by how much the search flattered it, and which
of the best can be told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.errors import TrimtabError
from trimtab.evaluation.estimate import Estimate, Interval95
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.results import Comparison, Results
from trimtab.evaluation.summary import About, summarise
from trimtab.evaluation.verdict import find
from trimtab.files import make_folder, write_json, write_text
from trimtab.folder_lock import waiting_for
from trimtab.formats import number, with_interval
from trimtab.recipe_spaces import Choice
from trimtab.tune.search import ESTIMATE, SLACK, VALUES, in_words, trials_of
from trimtab.tune.trial import TEST, TUNING, Bench, compared, prepare, run_trial

if TYPE_CHECKING:
    import optuna

BEST = 5
"""Trials that are set beside each other."""
FOUND, OWN = "found", "the recipe's own values"
"""What the two settings are called that the test prompts compare."""


@dataclass(frozen=True)
class Tried:
    """A trial that ended. estimate: of the first objective, on the tuning prompts. feasible: whether it keeps every
    constraint. front: with several objectives, whether no other is better in all of them."""

    number: int
    values: dict[str, Choice]
    numbers: list[float]
    estimate: Estimate
    feasible: bool
    front: bool = False


@dataclass(frozen=True)
class Ending:
    """tried: every trial that ended whole, the best first. results: of the test prompts. curse: by how much the
    tuning prompts were too kind to the winner, with its interval. sentences: what was found, in words."""

    tried: list[Tried]
    results: Results
    curse: tuple[float, Interval95]
    sentences: list[str]


def winners_curse(tuning: float, test: Estimate) -> tuple[float, Interval95]:
    """By how much the number that a winner was chosen by is above what it is worth, and a 95 % interval of that.

    tuning: the winner's number on the prompts of the search. It is known, and the best of many, so its own interval
    says nothing. test: the same number on other prompts, whose interval holds what the winner is worth in 95 % of
    searches, whatever was searched (`tests/tune/test_winners_curse.py`).
    """
    low, high = test.ci95 or (test.value, test.value)
    return tuning - test.value, (tuning - high, tuning - low)


def tried_of(bench: Bench, study: optuna.Study) -> list[Tried]:
    """The trials that ended whole, the best of those that keep every constraint first."""
    import optuna

    objectives = bench.settings.objectives
    complete = [trial for trial in trials_of(study) if trial.state == optuna.trial.TrialState.COMPLETE]
    tried = {
        trial.user_attrs[VALUES]: Tried(
            trial.number,
            json.loads(trial.user_attrs[VALUES]),
            list(trial.values),
            Estimate.model_validate_json(trial.user_attrs[ESTIMATE]),
            all(slack <= 0 for slack in trial.user_attrs.get(SLACK, ())),
        )
        for trial in reversed(complete)  # of the same values, the first
    }
    signs = [1 if best == "highest" else -1 for best in objectives.values()]
    ordered = sorted(tried.values(), key=lambda one: (not one.feasible, -signs[0] * one.numbers[0], one.number))
    return [
        Tried(one.number, one.values, one.numbers, one.estimate, one.feasible, not _beaten(one, ordered, signs))
        for one in ordered
    ]


def _beaten(one: Tried, others: Sequence[Tried], signs: Sequence[int]) -> bool:
    """Whether another trial that keeps the constraints is better in one objective, and worse in none."""
    mine = [sign * number for sign, number in zip(signs, one.numbers, strict=True)]
    theirs = ([s * n for s, n in zip(signs, other.numbers, strict=True)] for other in others if other.feasible)
    return any(all(a >= b for a, b in zip(them, mine, strict=True)) and them != mine for them in theirs)


def conclude(bench: Bench, study: optuna.Study) -> Ending:
    """Measures the winner and the recipe's own values on the test prompts, once, and writes what was found.

    TrimtabError where no trial ended whole, or none keeps the constraints.
    """
    tried = tried_of(bench, study)
    if not tried or not tried[0].feasible:
        why = "no trial keeps every constraint" if tried else "every trial failed or was stopped"
        raise TrimtabError(f"{bench.out}: {why}. Search other values, or more of them.")
    with waiting_for(bench.out / "ending"):
        results = _on_test(bench, tried[0])
        best = _best(bench, tried)
        [metric, *_] = bench.settings.objectives
        curse = winners_curse(tried[0].estimate.value, results.methods[_winner(bench, tried[0])].estimates[metric])
        ending = Ending(tried, results, curse, _sentences(bench, tried, results, best, curse))
        _write(bench, ending)
    return ending


def _winner(bench: Bench, best: Tried) -> str:
    return OWN if best.values == bench.start else FOUND


def _on_test(bench: Bench, best: Tried) -> Results:
    opponent = prepare(bench, TEST)
    settings: dict[str, Mapping[str, Choice]] = {OWN: bench.start, _winner(bench, best): best.values}
    answers = {name: run_trial(bench, values, name, TEST) for name, values in settings.items()}
    recipe = bench.recipe(bench.start)
    judge = recipe.judge.describe() if recipe.judge else None
    about = About(name=bench.out.name, judge=judge, start=OWN if len(settings) > 1 else None)
    return summarise(compared(bench, answers, opponent, TEST), about)


def _best(bench: Bench, tried: Sequence[Tried]) -> list[Comparison]:
    """The winner against each of the next best, paired over the tuning prompts and corrected together."""
    [metric, *_] = bench.settings.objectives
    best = [one for one in tried[:BEST] if one.feasible]
    if len(best) < 2 or METRICS[metric].paired is None:
        return []
    opponent = prepare(bench, TUNING)
    answers = {f"trial {one.number}": run_trial(bench, one.values, f"trial {one.number}", TUNING) for one in best}
    results = summarise(compared(bench, answers, opponent, TUNING), About(name="best"))
    first, *others = answers
    return [found for other in others if (found := find(results, first, other, metric)) is not None]


def _sentences(
    bench: Bench,
    tried: Sequence[Tried],
    results: Results,
    best: Sequence[Comparison],
    curse: tuple[float, Interval95],
) -> list[str]:
    [name, *_] = bench.settings.objectives
    metric, winner = METRICS[name], tried[0]
    scale, digits = metric.scale, 1 if metric.scale == 100 else metric.digits
    test = results.methods[_winner(bench, winner)].estimates[name]
    lines = [
        f"Best of {len(tried)} trials on the tuning prompts: {in_words(winner.values)} (trial {winner.number})."
        if winner.values != bench.start
        else f"None of {len(tried)} trials was better on the tuning prompts than the recipe's own values."
    ]
    lines.append(
        f"Its {metric.title}: {number(winner.estimate.value, digits, scale)} on the tuning prompts, "
        f"{with_interval(test.value, test.ci95, digits, scale)} on the test prompts. The search flattered it by "
        f"{with_interval(*curse, digits, scale, sign=True)}."
    )
    against = find(results, FOUND, OWN, name)
    if against is not None:
        told = with_interval(against.difference, against.ci95, digits, scale, sign=True)
        better = against.ci95[0] > 0 if bench.settings.objectives[name] == "highest" else against.ci95[1] < 0
        said = "better than" if better else "not shown to be better than"
        lines.append(f"On the test prompts it is {said} the recipe's own values: {told}.")
    if best:
        apart = sum((c.p_holm if c.p_holm is not None else c.p_value) < 0.05 for c in best)
        count = len(best) + 1
        lines.append(
            f"The {count} best cannot be told apart on the tuning prompts."
            if not apart
            else f"Of the {count} best, {apart} can be told from the winner on the tuning prompts."
        )
    return lines


def _write(bench: Bench, ending: Ending) -> None:
    """found.json, trials.csv and the chart of all trials, results.json and the report of the test prompts."""
    from trimtab.report.render import write_report  # loads matplotlib
    from trimtab.report.table_files import to_csv
    from trimtab.tune.chart import chart, records

    winner = ending.tried[0]
    found = {"values": winner.values, "trial": winner.number, "sentences": ending.sentences}
    found |= {"set": [f"{path}={json.dumps(value)}" for path, value in winner.values.items()]}
    write_json(bench.out / "found.json", found)
    write_text(bench.out / "trials.csv", to_csv(records(bench, ending.tried)))
    make_folder(bench.out / "figures")
    ending.results.write(bench.out / "results.json")
    write_report(ending.results, bench.out)
    write_text(bench.out / "figures" / "trials.svg", chart(bench, ending.tried).svg)
