"""Whether other methods tell how hard a prompt is, for the win rate at equal length: on models with published
figures, on the methods of a study, and where the truth is known.

    python benchmarks/coverage.py --rows length_control [--study runs/quickstart]
"""

from __future__ import annotations

import csv
import gzip
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats

from trimtab.evaluation.answers import Answers, scores_of
from trimtab.evaluation.length_control import LengthControlled, difficulty_of, fit, length_controlled_win_rate
from trimtab.evaluation.outputs import MethodOutputs, read_generations, read_scores
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
    return difficulty_of([judged.outcomes for other, judged in methods.items() if other != name])


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
    errors: dict[str, list[float]] = {"none": [], "others": [], "file": [], "plain": []}
    held: dict[str, list[bool]] = {"none": [], "others": [], "file": []}
    for name, judged in methods.items():
        expected = float(truth[name]["length_controlled_winrate"]) / 100
        found = {
            "none": judged.rate(None, resamples),
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
    """Methods of one base: how alike they are, and what others tell of a prompt."""
    for seed in sorted(folder.glob("seed-*")):
        outputs = {path.name: _read(path) for path in sorted((seed / "evaluation").iterdir())}
        opponent = outputs.pop("opponent")
        methods = {name: _judged(one, opponent) for name, one in outputs.items()}
        for name, judged in methods.items():
            none, others = judged.rate(None, resamples), judged.rate(others_of(methods, name), resamples)
            ends = ["{:.1f} to {:.1f}".format(*(100 * end for end in one.ci95)) for one in (none, others)]
            show(
                f"{folder.name}, {seed.name}: {name}",
                f"plain {100 * float(np.nanmean(judged.outcomes)):.1f}; none {100 * none.value:.1f} ({ends[0]}); "
                f"others {100 * others.value:.1f} ({ends[1]}); overlap {100 * none.overlap:.0f} %",
            )
        _alike(show, f"{folder.name}, {seed.name}", methods)


def _read(folder: Path) -> MethodOutputs:
    return MethodOutputs(
        folder.name, read_generations(folder / "generations.jsonl"), read_scores(folder / "scores.jsonl")
    )


def _judged(method: MethodOutputs, opponent: MethodOutputs) -> Judged:
    lengths, others = Answers(method).characters, Answers(opponent).characters
    assert lengths is not None
    assert others is not None
    return Judged(outcomes(scores_of(method), scores_of(opponent)), lengths, others)


def _alike(show: Show, what: str, methods: Mapping[str, Judged]) -> None:
    pairs = list(_correlations(methods))
    show(
        f"{what}: correlation of two methods' outcomes",
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
    assert difficulty is not None
    return judged.deviance(None) - judged.deviance(np.random.default_rng(1).permutation(difficulty))


def _correlations(methods: Mapping[str, Judged]) -> Iterator[float]:
    for a, b in itertools.combinations(methods.values(), 2):
        both = ~np.isnan(a.outcomes) & ~np.isnan(b.outcomes)
        yield float(np.corrcoef(a.outcomes[both], b.outcomes[both])[0, 1])


def simulated(show: Show, repetitions: int, resamples: int) -> None:
    """Four methods and a judge with a known taste for length; methods share their luck on a prompt, more or less,
    as those of one base do. 300 prompts; longer answers go with easier prompts."""
    n, taste, sizes = 300, 1.0, (-0.5, 0.0, 0.3, 0.6)
    for shared in (0.0, 0.3, 0.6, 0.9):
        errors: dict[str, list[float]] = {"plain": [], "none": [], "others": []}
        held: dict[str, int] = {"none": 0, "others": 0}
        for repetition in range(repetitions):
            rng = np.random.default_rng([3, repetition])
            hardness = rng.normal(size=n)
            length = rng.normal(size=n) + 0.3 * hardness
            luck = rng.normal(size=n)
            methods, truths = {}, {}
            for place, size in enumerate(sizes):
                delta = 0.4 * length + rng.normal(size=n) + 0.5
                latent = 1.7 * (np.sqrt(shared) * luck + np.sqrt(1 - shared) * rng.normal(size=n))
                base = size + 0.8 * hardness
                won = base + taste * np.tanh(delta / delta.std(ddof=1)) + latent > 0
                methods[str(place)] = Judged(won.astype(float), delta, np.zeros(n))
                truths[str(place)] = float(scipy.stats.norm.cdf(base / 1.7).mean())
            name = str(repetition % len(sizes))
            truth, judged = truths[name], methods[name]
            errors["plain"].append(judged.outcomes.mean() - truth)
            for how, gamma in (("none", None), ("others", others_of(methods, name))):
                found = judged.rate(gamma, resamples)
                errors[how].append(found.value - truth)
                held[how] += found.ci95[0] <= truth <= found.ci95[1]
        show(
            f"simulated, luck shared {shared:.0%}: mean error (mean absolute), points",
            ", ".join(
                f"{how} {100 * np.mean(e):+.1f} ({100 * np.mean(np.abs(e)):.1f})" for how, e in errors.items()
            ),
        )
        show(
            f"simulated, luck shared {shared:.0%}: intervals that hold the truth",
            ", ".join(f"{how} {100 * k / repetitions:.0f} %" for how, k in held.items()),
        )
