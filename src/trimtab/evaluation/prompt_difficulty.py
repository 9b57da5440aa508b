"""How hard each prompt is, as the other methods of a comparison tell it: γ_x of the win rate at equal length.

What a method won on a prompt depends on the prompt, on luck, and on the lengths of its answer and the opponent's.
Methods of one base model write answers of like lengths, and some are the same text. So the bare outcomes of others
hold part of the rated method's own outcome and length, and a regression on them takes length's effect for theirs.
Hence, with t = tanh(Δ / std Δ):

1. An answer counts once: where two other methods gave the same text, that of the first, and where the rated method
   gave it as well, none.
2. What a method's own lengths explain is taken out of its outcomes: y − p(t) + p(0), by a logistic regression on a
   constant and t. In further passes it is on the difficulty as well that all the other methods told before. That
   includes the rated one: its own outcome moves its difficulty by 0.06 standard deviations, which is let stand.
3. The mean of a few noisy outcomes is not the difficulty. In its place the regression takes what is expected of the
   difficulty, given that mean and the method's own length: E[γ | mean, t], linear in both. This is regression
   calibration (Carroll, Ruppert, Stefanski, Crainiceanu, Measurement Error in Nonlinear Models, 2006, chapter 4).
   The variance of γ is the covariance of two other methods' outcomes, and what is left of their variances is the
   error; Cov(γ, t) is that of their outcomes with t.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from trimtab.evaluation.length_control import fit, length_term
from trimtab.evaluation.statistics import Floats

OTHERS = 3
"""Methods beside the one that is rated, from which on their outcomes tell how hard a prompt is."""
PASSES = 2
"""After the first: how often lengths are taken out again, beside the difficulty that was told before."""
RELIABLE, LUCK = 0.1, 1.645
"""Nothing is told below such a share of the mean's variance that is the prompts' own, or where luck would bring so
large a covariance of others in one of twenty comparisons: so many standard errors."""
COLLINEAR = 0.95
"""The largest correlation of difficulty and length that is believed."""


@dataclass(frozen=True)
class Comparison:
    """One method's answers beside the opponent's, of one training seed. outcomes: 1, ½, 0 or a soft preference of
    each prompt, NaN where one is missing. delta: characters of the answer − of the opponent's; zeros where they are
    not known. texts: the answers; empty where they are not known. All are [prompts]."""

    outcomes: Floats
    delta: Floats
    texts: Sequence[str] = ()

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Prompts with an outcome."""
        return ~np.isnan(self.outcomes)

    def length(self) -> Floats:
        """tanh(Δ / std Δ) of each prompt, less its mean; the spread and the mean are those of prompts with an
        outcome."""
        term = length_term(self.delta, self.seen[None].astype(float))[0]
        return term - term[self.seen].mean() if self.seen.any() else np.zeros_like(term)

    def without_length(self, difficulty: Floats | None) -> Floats:
        """Outcomes, less what the lengths of this method's answers tell beside the difficulty."""
        length = length_term(self.delta, self.seen[None].astype(float))[0]
        others = [np.ones_like(length)] if difficulty is None else [np.ones_like(length), difficulty]
        x = np.stack([length, *others], axis=-1)
        at_zero = x.copy()
        at_zero[:, 0] = 0
        outcomes = np.nan_to_num(self.outcomes)
        beta = fit(x[None], outcomes, self.seen[None].astype(float))[0]
        left: Floats = self.outcomes - scipy.special.expit(x @ beta) + scipy.special.expit(at_zero @ beta)
        return left


@dataclass(frozen=True)
class _Method:
    """A method's seeds, with a number for each answer, the same for the same text to the same prompt, and whether
    no method before it gave that answer. Both [seeds, prompts]."""

    runs: Sequence[Comparison]
    answers: NDArray[np.int_]
    first: NDArray[np.bool_]


def difficulties(methods: Mapping[str, Sequence[Comparison]]) -> dict[str, list[Floats] | None]:
    """Of each method and seed, the difficulty of each prompt as other methods tell it, [prompts], mean 0 and
    standard deviation 1; high is easy. None for a method beside which fewer than OTHERS tell anything, or where
    they don't agree on any prompt. methods: each one's seeds; all have the same prompts in the same order."""
    numbered = _numbered(methods)
    told: dict[str, list[Floats | None]] = {name: [None] * len(runs) for name, runs in methods.items()}
    for _ in range(1 + PASSES):
        adjusted = {
            name: np.stack([run.without_length(known) for run, known in zip(runs, told[name], strict=True)])
            for name, runs in methods.items()
        }
        told = {}
        for name, method in numbered.items():
            rows = [_mean_over_seeds(method, numbered[o], adjusted[o]) for o in methods if o != name]
            told[name] = [_told(run, _known(rows)) for run in method.runs]
    return {name: known if len(known := _known(of)) == len(of) else None for name, of in told.items()}


def _numbered(methods: Mapping[str, Sequence[Comparison]]) -> dict[str, _Method]:
    numbers: dict[tuple[int, str], int] = {}
    given_by: list[str] = []
    numbered = {}
    for name, runs in methods.items():
        answers = np.zeros((len(runs), runs[0].outcomes.size), dtype=int)
        first = np.ones_like(answers, dtype=bool)
        for seed, run in enumerate(runs):
            for prompt in range(answers.shape[1]):
                text = run.texts[prompt] if run.texts else f"not known: {name}, {seed}"
                number = numbers.setdefault((prompt, text), len(given_by))
                if number == len(given_by):
                    given_by.append(name)
                answers[seed, prompt], first[seed, prompt] = number, given_by[number] == name
        numbered[name] = _Method(runs, answers, first)
    return numbered


def _known(rows: Iterable[Floats | None]) -> list[Floats]:
    return [row for row in rows if row is not None]


def _told(run: Comparison, rows: Sequence[Floats]) -> Floats | None:
    """What the others' outcomes without length, each less its mean, tell of each prompt."""
    if len(rows) < OTHERS:
        return None
    outcomes = np.stack(rows)
    known = ~np.isnan(outcomes)
    values = np.where(known, outcomes, 0.0)
    signal, noise, compared = _variances(values, known)
    by_luck = LUCK * (signal + noise) / np.sqrt(max(compared, 1.0))
    if signal <= max(RELIABLE * (signal + noise / len(rows)), by_luck):
        return None
    length = run.length()
    of_length = max(float((length[run.seen] ** 2).mean()) if run.seen.any() else 0.0, 1e-12)
    most = COLLINEAR * np.sqrt(signal * of_length)
    shared = float(np.clip((values * length).sum() / known.sum(), -most, most))
    counts = known.sum(axis=0)
    mean = values.sum(axis=0) / np.maximum(counts, 1)
    error = noise / np.maximum(counts, 1)
    left = (signal + error) * of_length - shared**2
    by_mean = (signal * of_length - shared**2) / left * mean + shared * error / left * length
    expected = np.where(counts > 0, by_mean, shared / of_length * length)
    spread = float(expected.std())
    standardised: Floats = (expected - expected.mean()) / max(spread, 1e-9)
    return standardised if spread > 1e-9 else None


def _mean_over_seeds(rated: _Method, other: _Method, adjusted: Floats) -> Floats | None:
    """Another method's outcomes without length, less their mean, where its answers are its own; None where that is
    on fewer than two prompts, or where it won as much on all of them."""
    same = (other.answers[:, None] == rated.answers[None]).any(axis=1)
    known = other.first & ~same & ~np.isnan(adjusted)
    counts = known.sum(axis=0)
    won = np.stack([run.outcomes for run in other.runs])[known]
    if (counts > 0).sum() < 2 or np.ptp(won) == 0:
        return None
    sums = np.where(known, adjusted, 0.0).sum(axis=0)
    means: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means - float(np.nanmean(means))


def _variances(values: Floats, known: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Of [methods, prompts] with 0 where one is not known: what two methods share, what a method has of its own,
    and on how many prompts two were compared, summed over pairs. A pair counts by the prompts that both know."""
    both = known.astype(float) @ known.T.astype(float)
    products = values @ values.T
    compared = float(np.triu(both, k=1).sum())
    shared = max(0.0, float(np.triu(products, k=1).sum()) / max(compared, 1.0))
    alone = float(np.trace(products) / np.trace(both))
    return shared, max(0.0, alone - shared), compared
