"""A judge corrected by people's labels: how often the interval holds the truth, and how wide it is, in simulation.

    python benchmarks/labels.py [--rows rates,differences,clusters,halving,checks] [--repetitions 1000]

600 prompts, of which people label 30 to 300, drawn at random. What people and the judge say comes from two normal
numbers a prompt with a correlation; the judge's is moved up besides: it wins the method too often. Coverage in per
cent, width in points: of the correction, of PPI++ as published (95 % by the normal distribution), of the labels
alone, of the judge alone. Seeds are fixed; 1,000 repetitions are good to about ± 1.4 points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import scipy.stats

from trimtab.evaluation.answers import Answers
from trimtab.evaluation.duels import Field, duels_of
from trimtab.evaluation.label_checks import not_random
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs, Score
from trimtab.evaluation.prediction_powered import corrected_rate, tuned_weight
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import Clusters, Floats
from trimtab.evaluation.votes import Vote

PROMPTS = 600
BIAS = 0.3
"""Of the judge's number, in standard deviations: it gives the method 12 points too much at a rate of one half."""
JUDGES = {"poor": 0.5, "good": 0.9, "near perfect": 0.995}
"""Correlations of its number with people's: at a rate of a half they agree on 66, 83 and 88 % of prompts."""
Ends = tuple[float, float]


class Tally:
    """Coverage and mean width of several intervals."""

    def __init__(self, truth: float) -> None:
        self.truth, self.held, self.width, self.count = truth, dict[str, int](), dict[str, float](), 0

    def add(self, found: dict[str, Ends]) -> None:
        """The intervals of one repetition."""
        self.count += 1
        for name, (low, high) in found.items():
            self.held[name] = self.held.get(name, 0) + (low <= self.truth <= high)
            self.width[name] = self.width.get(name, 0.0) + high - low

    def show(self, case: str) -> None:
        """A line: coverage / width of each."""
        each = (
            f"{name} {100 * held / self.count:.1f} / {100 * self.width[name] / self.count:.1f}"
            for name, held in self.held.items()
        )
        print(f"{case:<58} {'   '.join(each)}", flush=True)


def published(y: Floats, f: Floats, others: Floats) -> Ends:
    """PPI++ as in its paper."""
    weight = tuned_weight(y, f, others)
    mean = weight * others.mean() + (y - weight * f).mean()
    half = 1.959964 * np.sqrt((y - weight * f).var() / y.size + (weight * others).var() / others.size)
    return float(mean - half), float(mean + half)


def outcomes(latent: Floats, rate: float, ties: float) -> Floats:
    """1, ½ and 0 of standard normal numbers: so many won, a tie counted as half, so many tied."""
    upper, lower = scipy.stats.norm.isf([rate - ties / 2, rate + ties / 2])
    return np.where(latent > upper, 1.0, np.where(latent > lower, 0.5, 0.0))


def intervals(
    y: Floats, f: Floats, labelled: Floats, bounds: Ends = (0.0, 1.0), clusters: Clusters | None = None
) -> dict[str, Ends]:
    """Of one repetition, by name."""
    given = np.where(labelled, y, np.nan)
    corrected = corrected_rate(given, f, bounds=bounds, clusters=clusters)
    assert corrected is not None
    some = None if clusters is None else np.unique(clusters[labelled], return_inverse=True)[1]  # type: ignore[index]
    return {
        "corrected": corrected.interval.pair(),
        "published": published(y[labelled], f[labelled], f[~labelled]),  # type: ignore[index,operator]
        "labels": rate_interval(y[labelled], bounds=bounds, clusters=some).pair(),  # type: ignore[index]
        "judge": rate_interval(f, bounds=bounds, clusters=clusters).pair(),
    }


def drawn(rng: np.random.Generator, count: int) -> Floats:
    """Which prompts have a label, as a mask."""
    mask = np.zeros(PROMPTS, dtype=bool)
    mask[rng.choice(PROMPTS, count, replace=False)] = True
    return mask


def judged(rng: np.random.Generator, people: Floats, correlation: float, bias: float = BIAS) -> Floats:
    """The judge's number of each of people's."""
    return correlation * people + np.sqrt(1 - correlation**2) * rng.normal(size=people.size) + bias


def rates(repetitions: int) -> None:
    """Win rates, without ties and with a fifth of them."""
    for count in (30, 50, 100, 300):
        for rate, ties in ((0.5, 0.0), (0.5, 0.2), (0.8, 0.0), (0.8, 0.2), (0.93, 0.0)):
            for judge, correlation in JUDGES.items():
                tally, rng = Tally(rate), np.random.default_rng(1)
                for _ in range(repetitions):
                    people = rng.normal(size=PROMPTS)
                    y = outcomes(people, rate, ties)
                    f = outcomes(judged(rng, people, correlation), rate, ties)
                    tally.add(intervals(y, f, drawn(rng, count)))
                tally.show(f"rate: {count} labels, {rate:.0%}, {ties:.0%} tied, {judge} judge")


def differences(repetitions: int) -> None:
    """Paired differences of two methods' win rates, the judge kinder to the second."""
    for count in (30, 50, 100, 300):
        for rate, ties in ((0.5, 0.0), (0.5, 0.2), (0.8, 0.0)):
            for judge, correlation in JUDGES.items():
                tally, rng = Tally(0.1), np.random.default_rng(2)
                for _ in range(repetitions):
                    common = rng.normal(size=PROMPTS)
                    pair = [np.sqrt(0.5) * common + np.sqrt(0.5) * rng.normal(size=PROMPTS) for _ in range(2)]
                    a, b = (outcomes(x, r, ties) for x, r in zip(pair, (rate, rate + 0.1), strict=True))
                    moved = [judged(rng, x, correlation, by) for x, by in zip(pair, (0.0, BIAS), strict=True)]
                    f, g = (outcomes(x, r, ties) for x, r in zip(moved, (rate, rate + 0.1), strict=True))
                    tally.add(intervals(b - a, g - f, drawn(rng, count), (-1.0, 1.0)))
                tally.show(f"difference: {count} labels, from {rate:.0%}, {ties:.0%} tied, {judge} judge")


def clusters(repetitions: int) -> None:
    """Four rows of each of 150 documents, with half in common; labels of single rows, and of whole documents."""
    numbers = np.repeat(np.arange(PROMPTS // 4), 4)
    for count in (48, 100, 300):
        for whole in (False, True):
            for judge, correlation in JUDGES.items():
                tally, rng = Tally(0.5), np.random.default_rng(3)
                for _ in range(repetitions):
                    of_document = rng.normal(size=PROMPTS // 4)[numbers]
                    people = np.sqrt(0.5) * of_document + np.sqrt(0.5) * rng.normal(size=PROMPTS)
                    chosen = drawn(rng, count)
                    if whole:
                        chosen = np.isin(numbers, rng.choice(PROMPTS // 4, count // 4, replace=False))
                    y, f = outcomes(people, 0.5, 0.0), outcomes(judged(rng, people, correlation), 0.5, 0.0)
                    tally.add(intervals(y, f, chosen, clusters=numbers))
                of = "whole documents" if whole else "single rows"
                tally.show(f"clusters: {count} labels of {of}, {judge} judge")


def halving(repetitions: int) -> None:
    """Whether as many more labels as are said to halve the interval do so: 4,000 prompts, of which 100 have one."""
    for judge, correlation in JUDGES.items():
        ratios, rng = [], np.random.default_rng(5)
        for _ in range(repetitions):
            people = rng.normal(size=4000)
            y, f = outcomes(people, 0.6, 0.1), outcomes(judged(rng, people, correlation), 0.6, 0.1)
            widths = []
            count = 100
            for _ in range(2):
                found = corrected_rate(np.where(np.arange(4000) < count, y, np.nan), f)
                assert found is not None
                widths.append(found.interval.high - found.interval.low)
                count += found.labels_to_halve() or 0
            ratios.append(widths[1] / widths[0])
        middle, ends = np.median(ratios), np.quantile(ratios, [0.05, 0.95])
        print(
            f"halving: {judge} judge, width after of before {middle:.2f} ({ends[0]:.2f} to {ends[1]:.2f})",
            flush=True,
        )


def checks(repetitions: int) -> None:
    """How often labelled answers are said to be no random sample: drawn at random, and picked on purpose."""
    picks: dict[str, Callable[[Floats, Floats], Floats]] = {
        "at random": lambda scores, lengths: np.zeros(PROMPTS),
        "longer answers twice as often": lambda scores, lengths: np.log(2) * (lengths > np.median(lengths)),
        "close ones twice as often": lambda scores, lengths: (
            np.log(2) * (np.abs(scores) < np.median(np.abs(scores)))
        ),
        "the longest only": lambda scores, lengths: 1e6 * lengths,
        "the closest only": lambda scores, lengths: -1e6 * np.abs(scores),
    }
    for name, favour in picks.items():
        for count in (50, 100, 300):
            told, rng = 0, np.random.default_rng(4)
            for _ in range(repetitions):
                scores, lengths = rng.normal(size=PROMPTS), rng.gamma(2, 150, PROMPTS)
                chosen = np.argsort(-favour(scores, lengths) - rng.gumbel(size=PROMPTS))[:count]
                made = outputs(scores, lengths)
                votes = [Vote(str(i), "b", "a", 1.0, "ann") for i in chosen.tolist()]
                found = Field({one.name: [Answers(one)] for one in made}, [0])
                told += bool(not_random(found, duels_of(found, votes)))
            print(f"checks: {count} labels, {name}: warned in {100 * told / repetitions:.1f} %", flush=True)


def outputs(scores: Floats, lengths: Floats) -> list[MethodOutputs]:
    """Two methods, of which the first has the same score and length throughout."""
    made = []
    for name, own, sizes in (("a", 0 * scores, 0 * lengths + 300), ("b", scores, lengths)):
        answers = [GivenAnswer(str(i), f"ask {i}", characters=int(size)) for i, size in enumerate(sizes)]
        made.append(MethodOutputs(name, answers, [Score(id=str(i), score=score) for i, score in enumerate(own)]))
    return made


ROWS: dict[str, Callable[[int], None]] = {
    "rates": rates,
    "differences": differences,
    "clusters": clusters,
    "halving": halving,
    "checks": checks,
}


def asked() -> Iterator[tuple[Callable[[int], None], int]]:
    """The rows that the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--repetitions", type=int, default=1000)
    arguments = parser.parse_args()
    for name in arguments.rows.split(","):
        yield ROWS[name], arguments.repetitions


if __name__ == "__main__":
    for row, times in asked():
        row(times)
