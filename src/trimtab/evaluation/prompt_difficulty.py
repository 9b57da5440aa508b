"""How hard each prompt is, as the other methods of a comparison tell it: γ_x of the win rate at equal length.

What a method won on a prompt depends on the prompt, on luck, and on the lengths of its answer and the opponent's.
Methods of one base model write answers of like lengths, and some the very same ones, so the bare outcomes of others
would hold part of the method's own outcome and of its own length, and take away from what length explains. Hence:

1. An answer counts once: where two other methods gave the same text, that of the first, and where the rated method
   gave it as well, none.
2. From each other method's outcomes the share of its own lengths is taken: a logistic regression on a constant and
   tanh(Δ / std Δ), and in further passes on the difficulty that the rest tell; y − p(Δ) + p(0).
3. Their mean tells the difficulty with an error. By the law of regression calibration (Carroll, Ruppert, Stefanski
   and Crainiceanu, Measurement Error in Nonlinear Models, 2006, chapter 4) the regression takes its expectation,
   given that mean and the method's own length: E[γ | mean, t]. The variance of γ is the covariance of two other
   methods' outcomes, what is left of their variances is the error, and Cov(γ, t) is that of their outcomes with t.
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
RELIABLE = 0.1
"""The share of the mean's variance that is the prompts' own, below which nothing is told."""
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
    signal, noise = _variances(values, known)
    if signal <= RELIABLE * (signal + noise / len(rows)):
        return None
    length = run.length()
    of_length = float((length[run.seen] ** 2).mean()) if run.seen.any() else 0.0
    most = COLLINEAR * np.sqrt(signal * of_length)
    shared = float(np.clip((values * length).sum() / known.sum(), -most, most))
    counts = known.sum(axis=0)
    mean = values.sum(axis=0) / np.maximum(counts, 1)
    if of_length < 1e-12:
        expected = np.where(counts > 0, signal / (signal + noise / np.maximum(counts, 1)), 0.0) * mean
    else:
        error = noise / np.maximum(counts, 1)
        left = (signal + error) * of_length - shared**2
        by_mean = (signal * of_length - shared**2) / left * mean + shared * error / left * length
        expected = np.where(counts > 0, by_mean, shared / of_length * length)
    spread = float(expected.std())
    standardised: Floats = (expected - expected.mean()) / max(spread, 1e-9)
    return standardised if spread > 1e-9 else None


def _mean_over_seeds(rated: _Method, other: _Method, adjusted: Floats) -> Floats | None:
    """Another method's outcomes without length, less their mean, where its answers are its own; None where that is
    on fewer than two prompts."""
    same = (other.answers[:, None] == rated.answers[None]).any(axis=1)
    known = other.first & ~same & ~np.isnan(adjusted)
    counts = known.sum(axis=0)
    if (counts > 0).sum() < 2:
        return None
    sums = np.where(known, adjusted, 0.0).sum(axis=0)
    means: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means - float(np.nanmean(means))


def _variances(values: Floats, known: NDArray[np.bool_]) -> tuple[float, float]:
    """Of [methods, prompts] with 0 where one is not known: what two methods share on average, and what a method
    has of its own."""
    both = known.astype(float) @ known.T.astype(float)
    products = (values @ values.T) / np.maximum(both, 1)
    pairs = np.triu(both > 1, k=1)
    if not pairs.any():
        return 0.0, float(np.diag(products).mean())
    shared = max(0.0, float(products[pairs].mean()))
    return shared, max(0.0, float(np.diag(products).mean()) - shared)
