"""Whether other methods tell how hard a prompt is, for the win rate at equal length: on models with published
figures, on the methods of a study, and where the truth is known.

    python benchmarks/coverage.py --rows length_control [--study runs/quickstart]
"""

from __future__ import annotations

import csv
import gzip
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from trimtab.evaluation.answers import Answers, scores_of
from trimtab.evaluation.length_control import LengthControlled, fit, length_controlled_win_rate
from trimtab.evaluation.outputs import MethodOutputs, read_generations, read_scores
from trimtab.evaluation.prompt_difficulty import Comparison, difficulties
from trimtab.evaluation.statistics import Floats
from trimtab.evaluation.win_rate import outcomes

SHARED = Path(os.environ.get("TRIMTAB_SHARED") or Path(__file__).resolve().parents[2] / "shared")
Show = Callable[[str, str], None]
FOLDS = 10


@dataclass(frozen=True)
class Judged:
    """One method's comparisons: outcomes, NaN where one is missing, and lengths in characters. [prompts]"""

    outcomes: Floats
    lengths: Floats
    opponent_lengths: Floats
    texts: Sequence[str] = ()

    @property
    def comparison(self) -> Comparison:
        """What others' difficulty is told by."""
        return Comparison(self.outcomes, self.lengths - self.opponent_lengths, self.texts)

    def rate(self, difficulty: Floats | None, resamples: int) -> LengthControlled:
        """At equal length."""
        found = length_controlled_win_rate(
            self.outcomes, self.lengths, self.opponent_lengths, difficulty=difficulty, n_resamples=resamples
        )
        assert found is not None
        return found

    def deviance(self, difficulty: Floats | None) -> float:
        """Of held-out prompts, tenfold: nats a prompt; that of a model which knows the difficulty is lower where
        it tells something."""
        seen = ~np.isnan(self.outcomes)
        y, delta = self.outcomes[seen], (self.lengths - self.opponent_lengths)[seen]
        columns = [np.ones_like(y), np.tanh(delta / max(delta.std(ddof=1), 1e-9))]
        columns += [] if difficulty is None else [difficulty[seen]]
        x, fold = np.stack(columns, axis=1), np.random.default_rng(0).permutation(y.size) % FOLDS
        nats = np.zeros(y.size)
        for k in range(FOLDS):
            beta = fit(x[None], y, (fold != k)[None].astype(float))[0]
            logit = x[fold == k] @ beta
            nats[fold == k] = np.logaddexp(0, logit) - y[fold == k] * logit
        return float(nats.mean())


def others_of(methods: Mapping[str, Judged], name: str) -> Floats | None:
    """The difficulty that the other methods tell."""
    return of_seeds({of: [judged] for of, judged in methods.items()})[name][0]


def of_seeds(methods: Mapping[str, Sequence[Judged]]) -> dict[str, list[Floats | None]]:
    """The difficulty that the other methods tell, for every seed of every method."""
    told = difficulties({name: [judged.comparison for judged in of] for name, of in methods.items()})
    return {name: list(by_seed or [None] * len(methods[name])) for name, by_seed in told.items()}


def bare_others_of(methods: Mapping[str, Judged], name: str) -> Floats:
    """The mean of the others' outcomes as they are, standardised: what is simpler, and too simple."""
    outcomes_of = np.stack([judged.outcomes for other, judged in methods.items() if other != name])
    known = ~np.isnan(outcomes_of)
    means = np.where(known, outcomes_of, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    seen = known.any(axis=0)
    return np.where(seen, (means - means[seen].mean()) / means[seen].std(), 0.0)


def published(show: Show, resamples: int) -> None:
    """Eight AlpacaEval 2 models, each with the difficulty that the seven others tell, with the file's and none."""
    folder = SHARED / "data" / "length_control"
    if not folder.is_dir():
        show("AlpacaEval 2", f"left out: no {folder}")
        return
    with (folder / "instruction_difficulty_estimated.csv").open() as f:
        gamma = {int(row[""]): float(row["gamma_est"]) for row in csv.DictReader(f)}
    with (folder / "published.csv").open() as f:
        truth = {row["model"]: row for row in csv.DictReader(f)}
    methods = _alpaca(folder / "annotations.csv.gz", list(truth), list(gamma))
    column = np.array(list(gamma.values()))
    errors: dict[str, list[float]] = {"none": [], "bare": [], "others": [], "file": [], "plain": []}
    held: dict[str, list[bool]] = {"none": [], "bare": [], "others": [], "file": []}
    for name, judged in methods.items():
        expected = float(truth[name]["length_controlled_winrate"]) / 100
        found = {
            "none": judged.rate(None, resamples),
            "bare": judged.rate(bare_others_of(methods, name), resamples),
            "others": judged.rate(others_of(methods, name), resamples),
            "file": judged.rate(column, resamples),
        }
        overlap = found["none"].overlap
        what = "withheld" if found["none"].withheld else "extrapolated" if found["none"].extrapolated else "shown"
        numbers = ", ".join(f"{how} {100 * one.value:.1f}" for how, one in found.items())
        show(name, f"published {100 * expected:.1f}; {numbers}; overlap {100 * overlap:.0f} %: {what}")
        for how, one in found.items():
            errors[how].append(100 * abs(one.value - expected))
            held[how].append(one.ci95[0] <= expected <= one.ci95[1])
        errors["plain"].append(100 * abs(float(np.nanmean(judged.outcomes)) - expected))
    what = f"all {len(methods)}, withheld ones too"
    show(
        f"{what}: mean absolute error, points", ", ".join(f"{how} {np.mean(of):.1f}" for how, of in errors.items())
    )
    show(f"{what}: intervals that hold it", ", ".join(f"{how} {sum(of)}" for how, of in held.items()))
    _alike(show, "AlpacaEval 2", methods)


def _alpaca(file: Path, models: list[str], prompts: list[int]) -> dict[str, Judged]:
    with gzip.open(file, "rt") as f:
        rows = {(row["model"], int(row["index"])): row for row in csv.DictReader(f)}

    def column(model: str, name: str, missing: float) -> Floats:
        return np.array([float(rows[model, i][name]) if (model, i) in rows else missing for i in prompts])

    return {
        model: Judged(
            column(model, "preference", np.nan) - 1,
            column(model, "chars_model", 0),
            column(model, "chars_baseline", 0),
        )
        for model in models
    }


def of_study(show: Show, folder: Path, resamples: int) -> None:
    """Methods of one base: how alike they are, and what others tell of a prompt. What no training seed touches,
    the opponent and base, is in one seed's folder."""
    outputs: dict[str, list[MethodOutputs]] = {}
    for path in sorted(folder.glob("seed-*/evaluation/*/scores.jsonl")):
        outputs.setdefault(path.parent.name, []).append(_read(path.parent))
    (opponent,) = outputs.pop("opponent")
    methods = {name: [_judged(one, opponent) for one in of] for name, of in outputs.items()}
    told = of_seeds(methods)
    for name, by_seed in methods.items():
        for number, (judged, difficulty) in enumerate(zip(by_seed, told[name], strict=True)):
            none, others = judged.rate(None, resamples), judged.rate(difficulty, resamples)
            ends = ["{:.1f} to {:.1f}".format(*(100 * end for end in one.ci95)) for one in (none, others)]
            show(
                f"{folder.name}: {name}, run {number + 1} of {len(by_seed)}",
                f"plain {100 * float(np.nanmean(judged.outcomes)):.1f}; none {100 * none.value:.1f} ({ends[0]}); "
                f"others {100 * others.value:.1f} ({ends[1]}); overlap {100 * none.overlap:.0f} %",
            )
    for number in range(max(map(len, methods.values()))):
        _alike(
            show, f"{folder.name}, run {number + 1}", {m: of[min(number, len(of) - 1)] for m, of in methods.items()}
        )


def _read(folder: Path) -> MethodOutputs:
    return MethodOutputs(
        folder.name, read_generations(folder / "generations.jsonl"), read_scores(folder / "scores.jsonl")
    )


def _judged(method: MethodOutputs, opponent: MethodOutputs) -> Judged:
    lengths, others = Answers(method).characters, Answers(opponent).characters
    assert lengths is not None
    assert others is not None
    return Judged(outcomes(scores_of(method), scores_of(opponent)), lengths, others, Answers(method).texts or [])


def _alike(show: Show, what: str, methods: Mapping[str, Judged]) -> None:
    for of, values in (("outcomes", "outcomes"), ("length differences", "delta")):
        pairs = list(_correlations(methods, values))
        show(
            f"{what}: correlation of two methods' {of}",
            f"{np.mean(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})",
        )
    gains = [j.deviance(None) - j.deviance(others_of(methods, name)) for name, j in methods.items()]
    drawn = [_shuffled_gain(j, others_of(methods, name)) for name, j in methods.items()]
    show(
        f"{what}: what difficulty by others tells of held-out prompts",
        f"{np.mean(gains):+.3f} nats a prompt ({min(gains):+.3f} to {max(gains):+.3f}); of shuffled prompts "
        f"{np.mean(drawn):+.3f}",
    )


def _shuffled_gain(judged: Judged, difficulty: Floats | None) -> float:
    drawn = None if difficulty is None else np.random.default_rng(1).permutation(difficulty)
    return judged.deviance(None) - judged.deviance(drawn)


def _correlations(methods: Mapping[str, Judged], values: str) -> Iterator[float]:
    for a, b in itertools.combinations((judged.comparison for judged in methods.values()), 2):
        both = a.seen & b.seen
        yield float(np.corrcoef(getattr(a, values)[both], getattr(b, values)[both])[0, 1])


@dataclass(frozen=True)
class World:
    """What is simulated. shared: of luck and of length differences, by all methods. by_length: how much longer
    answers to easier prompts are. copied: of one other method's answers, those that are the rated one's own.
    hardness: the spread of prompts. taste: the judge's for length."""

    shared: float
    by_length: float = 0.3
    copied: float = 0.0
    hardness: float = 0.8
    taste: float = 1.0
    n: int = 300

    @property
    def words(self) -> str:
        """As a row of the table."""
        named = {"hardness": self.hardness, "taste": self.taste, "prompts": self.n}
        usual = {"hardness": 0.8, "taste": 1.0, "prompts": 300}
        told = [f"luck and lengths shared {self.shared:.0%}", f"length by ease {self.by_length:g}"]
        told += [f"one copies {self.copied:.0%}"] if self.copied else []
        return ", ".join([*told, *(f"{name} {value:g}" for name, value in named.items() if value != usual[name])])


WORLDS = [
    *(World(shared, by_length) for by_length in (0.3, 1.0) for shared in (0.0, 0.3, 0.6, 0.9)),
    *(World(0.3, copied=copied) for copied in (0.5, 1.0)),
    *(World(shared, hardness=0.0) for shared in (0.0, 0.3)),
    World(0.6, taste=0.0),
    *(World(shared, n=100) for shared in (0.3, 0.6)),
]
SIZES = (-0.5, 0.0, 0.3, 0.6)


def simulated(show: Show, repetitions: int, resamples: int) -> None:
    """Four methods and a judge with a known taste for length; methods share their luck and their lengths, more or
    less, as those of one base do."""
    for world in WORLDS:
        errors: dict[str, list[float]] = {"plain": [], "none": [], "bare": [], "others": []}
        held = dict.fromkeys(("none", "bare", "others"), 0)
        for repetition in range(repetitions):
            name = str(repetition % len(SIZES))
            methods, truth = _drawn(world, np.random.default_rng([3, repetition]), name)
            judged = methods[name]
            errors["plain"].append(judged.outcomes.mean() - truth)
            gammas = {"none": None, "bare": bare_others_of(methods, name), "others": others_of(methods, name)}
            for how, gamma in gammas.items():
                found = judged.rate(gamma, resamples)
                errors[how].append(found.value - truth)
                held[how] += found.ci95[0] <= truth <= found.ci95[1]
        show(
            f"simulated, {world.words}",
            "mean error (absolute): "
            + ", ".join(
                f"{how} {100 * np.mean(e):+.1f} ({100 * np.mean(np.abs(e)):.1f})" for how, e in errors.items()
            )
            + "; held: "
            + ", ".join(f"{how} {100 * k / repetitions:.0f} %" for how, k in held.items()),
        )


def _drawn(world: World, rng: np.random.Generator, rated: str) -> tuple[dict[str, Judged], float]:
    """Four methods, and the true rate at equal length of the one that is rated."""
    n, own = world.n, np.sqrt(1 - world.shared)
    hardness = rng.normal(size=n)
    length = rng.normal(size=n) + world.by_length * hardness
    luck, of_lengths = np.sqrt(world.shared) * rng.normal(size=(2, n))
    methods, truths = {}, {}
    for place, size in enumerate(SIZES):
        delta = 0.4 * length + of_lengths + own * rng.normal(size=n) + 0.5
        base = size + world.hardness * hardness
        latent = 1.7 * (luck + own * rng.normal(size=n))
        won = base + world.taste * np.tanh(delta / delta.std(ddof=1)) + latent > 0
        texts = [f"{place} on {prompt}" for prompt in range(n)]
        methods[str(place)] = Judged(won.astype(float), delta, np.zeros(n), texts)
        truths[str(place)] = float(scipy.stats.norm.cdf(base / 1.7).mean())
    if world.copied:
        _copy(methods, rated, rng.random(n) < world.copied)
    return methods, truths[rated]


def _copy(methods: dict[str, Judged], rated: str, where: NDArray[np.bool_]) -> None:
    """Make the next method's answers those of the rated one on these prompts."""
    name = str((int(rated) + 1) % len(SIZES))
    mine, other = methods[rated], methods[name]
    methods[name] = Judged(
        np.where(where, mine.outcomes, other.outcomes),
        np.where(where, mine.lengths, other.lengths),
        other.opponent_lengths,
        [a if same else b for a, b, same in zip(mine.texts, other.texts, where, strict=True)],
    )
