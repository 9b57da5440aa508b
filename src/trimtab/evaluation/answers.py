"""What a metric may look at: one method's answers, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trimtab.evaluation.bleu import Bleu, corpus_bleu
from trimtab.evaluation.length_control import Difficulty, LengthControlled, length_controlled_win_rate
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.prompt_difficulty import Comparison
from trimtab.evaluation.statistics import N_RESAMPLES, Clusters, Floats, clusters_of
from trimtab.evaluation.win_rate import Scores, outcomes
from trimtab.instructions.checks import Instruction, Verdict, verdicts


@dataclass(frozen=True)
class Options:
    """tolerance: how far apart two scores may be and still tie. seed, n_resamples: of bootstraps and sign flips.
    samples: how many prompts are shown with every method's answer. with_opponent: whether the opponent stands in
    all paired comparisons, as one of the things that are compared, and not only in those that say so."""

    tolerance: float = 0.0
    seed: int = 0
    n_resamples: int = N_RESAMPLES
    samples: int = 6
    with_opponent: bool = False


DEFAULTS = Options()


@dataclass(frozen=True)
class Answers:
    """One method's outputs of one training seed. Every list follows the same order of prompts.

    references, chosen_lengths: texts of the chosen completions and their tokens; empty where there are none.
    asked: the instructions of each prompt that a program checks; empty where no prompt has any. clusters: of each
    row, the name of the cluster that it is of; empty: rows of the same prompt are one. difficulty: of each
    prompt, for the win rate at equal length.
    """

    outputs: MethodOutputs
    opponent: MethodOutputs | None = None
    references: Sequence[str] = ()
    chosen_lengths: Sequence[int] = ()
    options: Options = DEFAULTS
    asked: Sequence[Sequence[Instruction]] = ()
    clusters: Sequence[str] = ()
    difficulty: Floats | None = None
    difficulty_from: Difficulty = "none"

    @cached_property
    def cluster_numbers(self) -> Clusters:
        """Of each row, the number of its cluster. Rows whose prompt is not known are each their own."""
        if self.clusters:
            return clusters_of(self.clusters)
        return clusters_of([f"p{g.prompt}" if g.prompt else f"i{g.id}" for g in self.outputs.generations])

    @cached_property
    def verdicts(self) -> list[list[Verdict]] | None:
        """Which of each prompt's instructions hold; None where no prompt has any."""
        if not self.asked or self.texts is None:
            return None
        return [verdicts(asked, text) for asked, text in zip(self.asked, self.texts, strict=True)]

    @cached_property
    def prompts(self) -> list[str]:
        """Each prompt, as text."""
        return [generation.prompt for generation in self.outputs.generations]

    @cached_property
    def texts(self) -> list[str] | None:
        """Each completion; None where one is not known."""
        known = [text for generation in self.outputs.generations if (text := generation.completion) is not None]
        return known if len(known) == len(self.outputs.generations) else None

    @cached_property
    def tokens(self) -> Floats | None:
        """Tokens of each completion, the one that ends the turn included; None where one is not known."""
        return _complete([generation.tokens for generation in self.outputs.generations])

    @cached_property
    def characters(self) -> Floats | None:
        """Characters of each completion; None where one is not known."""
        return _complete([generation.characters for generation in self.outputs.generations])

    @property
    def is_judged(self) -> bool:
        """Whether a judge scored both this method and an opponent, or saw both answers. Never of the opponent."""
        if self.outputs.is_opponent:
            return False
        scored = self.opponent is not None and bool(self.outputs.scores and self.opponent.scores)
        return scored or bool(self.outputs.preferences)

    @cached_property
    def outcomes(self) -> Floats | None:
        """1 (won), ½ (tied), 0 (lost) or NaN (a score is missing) of each prompt; None without an opponent. By a
        judge that saw both, its preference from 0 to 1. The opponent itself ties on all."""
        if self.outputs.is_opponent:
            return np.full(len(self.outputs.generations), 0.5)
        if self.outputs.preferences:
            return np.array([np.nan if p is None else p for p in self.outputs.preferences], dtype=np.float64)
        if self.opponent is None:
            return None
        return outcomes(scores_of(self.outputs), scores_of(self.opponent), tolerance=self.options.tolerance)

    @cached_property
    def both_lengths(self) -> tuple[Floats, Floats] | None:
        """Characters of each completion, and of the opponent's; None where one is not known."""
        theirs = None if self.opponent is None else Answers(self.opponent).characters
        return None if self.characters is None or theirs is None else (self.characters, theirs)

    @cached_property
    def comparison(self) -> Comparison | None:
        """What the difficulty of prompts is told by; None where nothing was judged."""
        if self.outcomes is None or not self.is_judged:
            return None
        ours, theirs = self.both_lengths or (np.zeros(self.outcomes.size),) * 2
        return Comparison(self.outcomes, ours - theirs, self.texts or [])

    @cached_property
    def length_controlled(self) -> LengthControlled | None:
        """The win rate at equal length; None where nothing was judged."""
        if self.outcomes is None or not self.is_judged or self.both_lengths is None:
            return None
        return length_controlled_win_rate(
            self.outcomes,
            *self.both_lengths,
            difficulty=self.difficulty,
            clusters=self.cluster_numbers,
            seed=self.options.seed,
        )

    @cached_property
    def bleu(self) -> Bleu | None:
        """Against the chosen completions; None where there are none."""
        return corpus_bleu(self.texts, self.references) if self.references and self.texts is not None else None


def _complete(values: Sequence[int | None]) -> Floats | None:
    return None if None in values else np.array(values, dtype=np.float64)


def scores_of(outputs: MethodOutputs) -> Scores:
    """The judge's score of each completion; None where it is missing, or where nothing was judged."""
    return [s.score for s in outputs.scores] if outputs.scores else [None] * len(outputs.generations)
