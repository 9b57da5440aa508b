"""From the outputs of every method to results.json: measures nothing twice, trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trimtab.audit.preferences import AuditReport, amplification
from trimtab.catalogue import ordered_methods
from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import DEFAULTS, Answers, Options, scores_of
from trimtab.evaluation.bradley_terry import FEWEST, bradley_terry, outcomes_of_pairs
from trimtab.evaluation.cautions import warnings_of
from trimtab.evaluation.compare import compare, matrix
from trimtab.evaluation.judge_card import card_of
from trimtab.evaluation.judge_probes import Probe
from trimtab.evaluation.length_control import difficulty_of
from trimtab.evaluation.method_numbers import method_result
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.near_duplicates import UNASKED, near_duplicates, told_of
from trimtab.evaluation.outputs import MethodOutputs, align, check_unique
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
from trimtab.evaluation.statistics import Floats, holm
from trimtab.evaluation.task_results import task_results
from trimtab.evaluation.task_verdict import task_sentences
from trimtab.evaluation.verdict import NOT_JUDGED, find, mostly_missing, verdict
from trimtab.evaluation.votes import Labels
from trimtab.instructions.checks import Instruction
from trimtab.progress import Progress


@dataclass(frozen=True)
class StudyOutputs:
    """What the models of a study answered.

    per_seed: of each training seed, the outputs of every method that was trained with it, always the same ones.
    fixed: methods that no training seed touches, such as base, measured once.
    references, chosen_lengths (tokens): of the chosen completions, in the order of the opponent's generations, or
    of the first method's where there is no opponent; both may be empty. asked: the prompts' instructions, likewise.
    clusters: of each prompt, the name of the cluster of rows that it is of; empty: rows of the same prompt are one.
    near_duplicates: whether prompts that are nearly the same are one cluster, where `clusters` is empty.
    difficulty: of each prompt, a number; empty: the other methods' outcomes tell it. labels: what people said of
    the answers. probes: what the judge said when it was asked again.
    """

    per_seed: Mapping[int, Sequence[MethodOutputs]]
    fixed: Sequence[MethodOutputs] = ()
    opponent: MethodOutputs | None = None
    references: Sequence[str] = ()
    chosen_lengths: Sequence[int] = ()
    asked: Sequence[Sequence[Instruction]] = ()
    clusters: Sequence[str] = ()
    difficulty: Sequence[float] = ()
    labels: Labels | None = None
    probes: Sequence[Probe] = ()
    near_duplicates: bool = False

    def judged_once(self) -> list[MethodOutputs]:
        """Every method's outputs, of its first seed."""
        return [*self.fixed, *next(iter(self.per_seed.values()), ())]


@dataclass(frozen=True)
class About:
    """What results say beside numbers. curves: by seed, then by stage. warnings: they come before those that the
    numbers give. start: the method that sentences set the others beside, where it is not a study's base or SFT.
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
    relatives: Sequence[str] = ()
    second_judges: Sequence[SecondJudge] = ()


@dataclass(frozen=True)
class _Aligned:
    """Every list in the same order of prompts. methods: in their order, of each its outputs by seed, or one for a
    method that no seed touches."""

    methods: Mapping[str, Sequence[MethodOutputs]]
    opponent: MethodOutputs | None

    def everyone(self) -> list[MethodOutputs]:
        """All outputs, the opponent's last, unless a method is the opponent itself."""
        outputs = [run for runs in self.methods.values() for run in runs]
        alone = self.opponent is not None and not any(run.is_opponent for run in outputs)
        return [*outputs, self.opponent] if self.opponent is not None and alone else outputs

    def first_runs(self) -> list[MethodOutputs]:
        """The first seed's outputs of each method, then the opponent's."""
        return replace(self, methods={name: runs[:1] for name, runs in self.methods.items()}).everyone()


def summarise(outputs: StudyOutputs, about: About, options: Options = DEFAULTS) -> Results:
    """Results of a study of one training seed or of several, pooled as pooling.py says.

    Samples and curves are the first seed's; lengths and the audit's shares are of all seeds together. ValueError or
    TrimtabError where outputs do not belong together.
    """
    with Progress("comparisons", None):
        return _summarised(outputs, about, options)


def _summarised(outputs: StudyOutputs, about: About, options: Options) -> Results:
    seeds = list(outputs.per_seed)
    aligned = _align_all(outputs)
    clusters, alike = _clusters(outputs, aligned)

    def answers(run: MethodOutputs) -> Answers:
        against = run.opponent or aligned.opponent
        given = (outputs.references, outputs.chosen_lengths, options, outputs.asked, clusters)
        return Answers(run, against, *given)

    runs = with_difficulty(
        {name: [answers(run) for run in by_seed] for name, by_seed in aligned.methods.items()}, outputs.difficulty
    )
    opponent = aligned.opponent
    against = None if opponent is None else answers(replace(opponent, is_opponent=True))
    results = Results(
        name=about.name,
        opponent=_opponent_name(aligned),
        judge=about.judge,
        judge_card=card_of(runs, outputs.probes, about.relatives),
        training_reward=about.training_reward,
        methods={name: method_result(of_method, seeds, options) for name, of_method in runs.items()},
        opponent_method=_opponent_method(runs),
        opponent_result=None if against is None else method_result([against], [], options),
        comparisons=compare(runs, seeds, options, against),
        ranking=_ranking(runs, against, options),
        tasks=task_results(aligned.methods, opponent, seeds, options),
        second_judges=[second_opinion(judge, runs, seeds, options, against) for judge in about.second_judges],
        lengths=_lengths(aligned.everyone(), outputs.chosen_lengths),
        curves=dict(about.curves.get(seeds[0], {})) if seeds else {},
        other_curves={seed: dict(about.curves[seed]) for seed in seeds[1:] if seed in about.curves},
        samples=_samples(aligned.first_runs(), outputs.references, options.samples),
        data=dict(about.data),
        audit=about.audit and amplified(about.audit, aligned.everyone()),
        people=outputs.labels and people_of(outputs.labels, runs, against, seeds, options, about.start),
        provenance=about.provenance,
    )
    return worded(results, [*about.warnings, *alike], about.start)


def _clusters(outputs: StudyOutputs, aligned: _Aligned) -> tuple[Sequence[str], list[str]]:
    """The name of each prompt's cluster, none where each is its own; and what a reader must know of prompts that
    are nearly the same. They are looked for where that is asked for, or takes no time to speak of."""
    prompts = [answer.prompt for answer in aligned.everyone()[-1].generations]
    if outputs.near_duplicates and not all(prompts):
        raise TrimtabError(
            "near-duplicates can't be told: the text of some prompts is not known. Give files with it."
        )
    if outputs.clusters or not all(prompts) or (len(prompts) > UNASKED and not outputs.near_duplicates):
        return outputs.clusters, []
    groups = near_duplicates(prompts)
    if outputs.near_duplicates:
        return [str(group) for group in groups], []
    return [], [line] if (line := told_of(groups, prompts)) else []


def _opponent_name(aligned: _Aligned) -> str | None:
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


def with_difficulty(
    runs: Mapping[str, Sequence[Answers]], difficulty: Sequence[float] = ()
) -> dict[str, list[Answers]]:
    """The answers, which know how hard prompts are: by these numbers, or by how the other methods did on each."""
    if difficulty:
        column = np.asarray(difficulty, dtype=np.float64)
        return {
            name: [replace(run, difficulty=column, difficulty_from="column") for run in of_method]
            for name, of_method in runs.items()
        }
    means = {name: mean for name, of in runs.items() if (mean := _mean_outcomes(of)) is not None}
    told = {name: difficulty_of([mean for other, mean in means.items() if other != name]) for name in runs}
    return {
        name: [
            run if (known := told[name]) is None else replace(run, difficulty=known, difficulty_from="others")
            for run in of_method
        ]
        for name, of_method in runs.items()
    }


def _mean_outcomes(runs: Sequence[Answers]) -> Floats | None:
    """Of each prompt, over seeds; NaN where none is known."""
    outcomes = [run.outcomes for run in runs if run.is_judged and run.outcomes is not None]
    if not outcomes:
        return None
    known = np.stack(outcomes)
    counts = (~np.isnan(known)).sum(axis=0)
    return np.where(counts > 0, np.nansum(known, axis=0) / np.maximum(counts, 1), np.nan)


def _align_all(outputs: StudyOutputs) -> _Aligned:
    """Methods in their order, every row of them and of the opponent in the same order of prompts."""
    per_seed, opponent = outputs.per_seed, outputs.opponent
    if len({tuple(sorted(m.name for m in methods)) for methods in per_seed.values()}) > 1:
        raise ValueError("every seed must have the same methods")
    methods = [*outputs.fixed, *next(iter(per_seed.values()), ())]
    if not methods:
        raise ValueError("no method to summarise")
    # The opponent and the chosen texts share tables with the methods, so a name stands for one of them.
    taken = ["chosen"] if opponent is None else ["chosen", opponent.name]
    check_unique([*(m.name for m in methods), *taken], "names of methods, opponent and chosen")
    first = opponent if opponent is not None else methods[0]
    template = first.generations
    if not template:
        raise ValueError(f"generations of {first.name}: none")
    names = ("references", "chosen_lengths", "asked", "clusters", "difficulty")
    listed = {name: getattr(outputs, name) for name in names}
    for name, rows in listed.items():
        if rows and len(rows) != len(template):
            raise ValueError(f"{name}: {len(rows)} for {len(template)} prompts of {first.name}")
    by_name: dict[str, list[MethodOutputs]] = {m.name: [m] for m in outputs.fixed}
    for of_seed in per_seed.values():
        for m in of_seed:
            by_name.setdefault(m.name, []).append(m)
    return _Aligned(
        {name: [align(m, template) for m in by_name[name]] for name in ordered_methods(by_name)},
        None if opponent is None else align(opponent, template),
    )


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
    said, others = verdict(results, start), [*people_sentences(results), *task_sentences(results, start)]
    results.verdict = others if others and said == [NOT_JUDGED] else [*said, *others]
    results.summary = results.verdict[0] if results.verdict else ""
    return results
