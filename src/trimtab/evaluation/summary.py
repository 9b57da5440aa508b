"""From the outputs of every method to results.json: measures nothing twice, trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trimtab.audit.preferences import AuditReport, amplification
from trimtab.evaluation.answers import DEFAULTS, Answers, Options, scores_of
from trimtab.evaluation.bradley_terry import FEWEST, bradley_terry, outcomes_of_pairs
from trimtab.evaluation.cautions import warnings_of
from trimtab.evaluation.compare import compare, matrix
from trimtab.evaluation.judge_card import JudgeCard, card_of
from trimtab.evaluation.method_numbers import method_result
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.people import people_of
from trimtab.evaluation.people_words import people_sentences, people_warnings
from trimtab.evaluation.results import (
    Provenance,
    Rating,
    Results,
    Sample,
    SecondJudge,
    SplitCounts,
    StageCurves,
)
from trimtab.evaluation.second_opinion import second_opinion
from trimtab.evaluation.self_preference import PEOPLE, self_preferences
from trimtab.evaluation.statistics import holm
from trimtab.evaluation.study_outputs import Aligned, Answered, answers_of
from trimtab.evaluation.study_outputs import StudyOutputs as StudyOutputs  # where scripts look for it
from trimtab.evaluation.task_results import task_results
from trimtab.evaluation.task_verdict import task_sentences
from trimtab.evaluation.verdict import NOT_JUDGED, find, mostly_missing, verdict
from trimtab.progress import Progress


@dataclass(frozen=True)
class About:
    """What results say beside numbers. curves: by seed, then by stage. warnings: they come before those that the
    numbers give. start: the method that sentences set the others beside, where it is not a study's base or SFT.
    began_at: method → the one whose model it started from, where it is not the usual one.
    relatives: what the judge may prefer as one of its family (judge_card.py). second_judges: without their
    numbers."""

    name: str
    judge: str | None = None
    training_reward: str | None = None
    audit: AuditReport | None = None
    curves: Mapping[int, Mapping[str, StageCurves]] = field(default_factory=dict)
    data: Mapping[str, SplitCounts] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    warnings: Sequence[str] = ()
    start: str | None = None
    began_at: Mapping[str, str] = field(default_factory=dict)
    relatives: Sequence[str] = ()
    second_judges: Sequence[SecondJudge] = ()


def summarise(outputs: StudyOutputs, about: About, options: Options = DEFAULTS) -> Results:
    """Results of a study of one training seed or of several, pooled as pooling.py says.

    Samples and curves are the first seed's; lengths and the audit's shares are of all seeds together. ValueError or
    TrimtabError where outputs do not belong together.
    """
    with Progress("comparisons", None):
        return _summarised(outputs, about, options)


def _summarised(outputs: StudyOutputs, about: About, options: Options) -> Results:
    answered = answers_of(outputs, options)
    aligned, seeds, runs, against = answered.aligned, answered.seeds, answered.runs, answered.opponent
    results = Results(
        name=about.name,
        opponent=_opponent_name(aligned),
        judge=about.judge,
        judge_card=_card(outputs, about, answered, options),
        training_reward=about.training_reward,
        methods={name: method_result(of_method, seeds, options) for name, of_method in runs.items()},
        opponent_method=_opponent_method(runs),
        opponent_result=None if against is None else method_result([against], [], options),
        comparisons=compare(runs, seeds, options, against),
        ranking=_ranking(runs, against, options),
        tasks=task_results(aligned.methods, aligned.opponent, seeds, options),
        second_judges=[second_opinion(judge, runs, seeds, options, against) for judge in about.second_judges],
        lengths=_lengths(aligned.everyone(), outputs.chosen_lengths),
        curves=dict(about.curves.get(seeds[0], {})) if seeds else {},
        other_curves={seed: dict(about.curves[seed]) for seed in seeds[1:] if seed in about.curves},
        samples=_samples(aligned.first_runs(), outputs.references, options.samples),
        data=dict(about.data),
        began_at=dict(about.began_at),
        audit=about.audit and amplified(about.audit, aligned.everyone()),
        people=outputs.labels and people_of(outputs.labels, runs, against, seeds, options, about.start),
        provenance=about.provenance,
    )
    return worded(results, [*about.warnings, *answered.told], about.start)


def _card(outputs: StudyOutputs, about: About, answered: Answered, options: Options) -> JudgeCard | None:
    card = card_of(answered.runs, outputs.probes, about.relatives)
    if card is not None:
        second = [judge.name for judge in about.second_judges]
        card.self_preference = self_preferences(answered, about.relatives, second, outputs.labels, options)
    return card


def _opponent_name(aligned: Aligned) -> str | None:
    """Of the common opponent, or what the methods' own ones are called."""
    if aligned.opponent is not None:
        return aligned.opponent.name
    own = [run.opponent.name for run in aligned.everyone() if run.opponent is not None]
    return " and ".join(dict.fromkeys(own)) or None


def _opponent_method(runs: Mapping[str, Sequence[Answers]]) -> str | None:
    """The method that is the opponent itself."""
    return next((name for name, of in runs.items() if all(run.outputs.is_opponent for run in of)), None)


def _ranking(runs: Mapping[str, Sequence[Answers]], opponent: Answers | None, options: Options) -> list[Rating]:
    """By the judge's scores; none for few methods, or where one was not scored."""
    alone = opponent is not None and _opponent_method(runs) is None
    everyone = dict(runs) | ({opponent.outputs.name: [opponent]} if opponent is not None and alone else {})
    scores = {name: matrix(METRICS["judge_score"], of_method) for name, of_method in everyone.items()}
    known = {name: values for name, values in scores.items() if values is not None and not np.isnan(values).all()}
    if len(known) < FEWEST or len(known) < len(everyone):
        return []
    found = bradley_terry(
        list(known),
        outcomes_of_pairs(known, options.tolerance),
        clusters=next(iter(runs.values()))[0].cluster_numbers,
        seed=options.seed,
    )
    return [Rating(name=one.name, strength=one.strength, elo=one.elo) for one in found]


def _lengths(everyone: Iterable[MethodOutputs], chosen_lengths: Sequence[int]) -> dict[str, list[int]]:
    """Tokens of every completion, by method, of all seeds together; of the chosen ones, where they are known."""
    lengths: dict[str, list[int]] = {}
    for outputs in everyone:
        counted = [g.tokens for g in outputs.generations if g.tokens is not None]
        if len(counted) == len(outputs.generations):
            lengths.setdefault(outputs.name, []).extend(counted)
    return lengths | ({"chosen": [int(n) for n in chosen_lengths]} if chosen_lengths else {})


def _samples(everyone: Sequence[MethodOutputs], references: Sequence[str], count: int) -> list[Sample]:
    """Prompts spread evenly over the evaluation set: not picked, so not flattering."""
    everyone = [m for m in everyone if any(g.completion is not None for g in m.generations)]
    if not everyone:
        return []
    n = len(everyone[0].generations)
    picks = sorted({int(i) for i in np.linspace(0, n - 1, min(count, n))})
    return [
        Sample(
            prompt=everyone[0].generations[i].prompt or f"prompt {everyone[0].generations[i].id}",
            chosen=references[i] if references else None,
            completions={m.name: text for m in everyone if (text := m.generations[i].completion) is not None},
            scores={m.name: scores_of(m)[i] for m in everyone},
        )
        for i in picks
    ]


def amplified(audit: AuditReport, everyone: Iterable[MethodOutputs]) -> AuditReport:
    """The audit, with the share of each one's outputs that hold each marker; a name may come for each seed."""
    outputs: dict[str, list[str]] = {}
    for m in everyone:
        outputs.setdefault(m.name, []).extend(g.completion for g in m.generations if g.completion is not None)
    return audit.model_copy(update={"amplification": amplification(audit, outputs)})


def correct_against_opponent(results: Results) -> None:
    """Holm's correction of the claims against the opponent, by the standard of those between methods: for as many
    as there are pairs of methods, or methods where these are more. Where a method is the opponent, they are claims
    between methods, and corrected with these."""
    if results.opponent_method is not None:
        for name, m in results.methods.items():
            pair = find(results, name, results.opponent_method, "win_rate")
            if m.win_counts is not None and pair is not None:
                m.win_counts.p_holm = pair.p_holm
        return
    counts = [m.win_counts for m in results.methods.values() if m.win_counts is not None]
    tested = [c for c in counts if c.p_value is not None]
    pairs = sum(c.metric == "win_rate" for c in results.comparisons)
    others = [1.0] * max(0, pairs - len(tested))
    adjusted = holm([*(c.p_value for c in tested if c.p_value is not None), *others])
    for claim, p in zip(tested, adjusted, strict=False):
        claim.p_holm = p


def worded(results: Results, warnings: Sequence[str], start: str | None = None) -> Results:
    """With its warnings, these first (but for missing scores), and its verdict. start: see About."""
    correct_against_opponent(results)
    results.start = start
    results.warnings = [*mostly_missing(results), *warnings, *warnings_of(results), *people_warnings(results)]
    return _with_verdict(results)


def _with_verdict(results: Results) -> Results:
    start = results.start
    said, others = verdict(results, start), [*people_sentences(results), *task_sentences(results, start)]
    results.verdict = others if others and said == [NOT_JUDGED] else [*said, *others]
    results.summary = results.verdict[0] if results.verdict else ""
    return results


def _card_with(results: Results, outputs: StudyOutputs, answered: Answered, options: Options) -> JudgeCard | None:
    """The judge's card, with what it gives its own family beside what these labels give it."""
    card = results.judge_card
    if card is None:
        return None
    others = [one for one in card.self_preference if one.by != PEOPLE]
    by_people = self_preferences(answered, card.relatives, (), outputs.labels, options)
    return card.model_copy(update={"self_preference": [*others, *by_people]})


def with_people(results: Results, outputs: StudyOutputs, options: Options = DEFAULTS) -> Results:
    """The same results with what the outputs' labels say, in place of what earlier ones said; no other number is
    worked out anew. outputs: those of the results. ValueError where they have no labels."""
    if outputs.labels is None:
        raise ValueError("the outputs have no labels")
    answered, earlier = answers_of(outputs, options), people_warnings(results)
    people = people_of(outputs.labels, answered.runs, answered.opponent, answered.seeds, options, results.start)
    kept = [line for line in results.warnings if line not in earlier]
    card = _card_with(results, outputs, answered, options)
    found = results.model_copy(update={"people": people, "judge_card": card})
    found.warnings = [*kept, *people_warnings(found)]
    return _with_verdict(found)
