"""A study's outputs before anything is measured: all in one order of prompts, each method's answers beside what
they are compared with, the prompts' clusters and how hard they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimtab.catalogue import ordered_methods
from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import Answers, Options
from trimtab.evaluation.judge_probes import Probe
from trimtab.evaluation.near_duplicates import UNASKED, near_duplicates, told_of
from trimtab.evaluation.outputs import MethodOutputs, align, check_unique
from trimtab.evaluation.prompt_difficulty import Comparison, difficulties
from trimtab.evaluation.votes import Labels
from trimtab.instructions.checks import Instruction


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
class Aligned:
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


@dataclass(frozen=True)
class Answered:
    """runs: of each method, its answers by seed. opponent: the common one's. told: what a reader must know of the
    prompts."""

    aligned: Aligned
    seeds: list[int]
    runs: dict[str, list[Answers]]
    opponent: Answers | None
    told: list[str]


def answers_of(outputs: StudyOutputs, options: Options) -> Answered:
    """Every method's answers, ready to be measured. ValueError or TrimtabError where outputs do not belong
    together."""
    aligned = _align_all(outputs)
    clusters, alike = _clusters(outputs, aligned)

    def answers(run: MethodOutputs) -> Answers:
        against = run.opponent or aligned.opponent
        given = (outputs.references, outputs.chosen_lengths, options, outputs.asked, clusters)
        return Answers(run, against, *given)

    runs = with_difficulty(
        {name: [answers(run) for run in by_seed] for name, by_seed in aligned.methods.items()}, outputs.difficulty
    )
    opponent = None if aligned.opponent is None else answers(replace(aligned.opponent, is_opponent=True))
    return Answered(aligned, list(outputs.per_seed), runs, opponent, alike)


def _clusters(outputs: StudyOutputs, aligned: Aligned) -> tuple[Sequence[str], list[str]]:
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
    told = difficulties({name: compared for name, of in runs.items() if (compared := _comparisons(of))})
    return {
        name: [
            replace(run, difficulty=known, difficulty_from="others") for run, known in zip(of, by_seed, strict=True)
        ]
        if (by_seed := told.get(name))
        else list(of)
        for name, of in runs.items()
    }


def _comparisons(runs: Sequence[Answers]) -> list[Comparison]:
    """Each seed's answers beside the opponent's; none where a seed was not judged."""
    return compared if len(compared := [one for run in runs if (one := run.comparison)]) == len(runs) else []


def _align_all(outputs: StudyOutputs) -> Aligned:
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
    return Aligned(
        {name: [align(m, template) for m in by_name[name]] for name in ordered_methods(by_name)},
        None if opponent is None else align(opponent, template),
    )
