"""How often intervals hold the truth, and how often tests reject a true null: the rows of benchmarks/README.md.

    python benchmarks/coverage.py [--rows rates,clusters,…] [--repetitions 1000] [--study runs/quickstart]

Every row is printed as it is found. Rates, ties and sign flips are enumerated, so their figures are exact; the
others are simulated with fixed seeds, and their figures are good to about ± 1.4 points (two standard errors of 95
% at 1,000 repetitions).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import length_control as lengths
import numpy as np
import scipy.stats

from trimtab.evaluation.pooling import pool
from trimtab.evaluation.rates import rate_interval, score_interval
from trimtab.evaluation.sign_flips import sign_flip_p_value
from trimtab.evaluation.statistics import Floats, mean_interval

RESAMPLES = 500


def show(row: str, case: str, value: str) -> None:
    """One line: which row of the table, of what, and what was found."""
    print(f"{row:<12} {case:<64} {value}", flush=True)


def per_cent(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:.1f} %"


def rates(repetitions: int) -> None:
    """Exact coverage of a rate, and whether more wins ever lower a bound."""
    for n, given in ((50, 0.07), (100, 0.04), (200, 0.02), (500, 0.01)):
        won = np.arange(n + 1)
        low, high = np.array([score_interval(w / n, n).pair() for w in won]).T[..., None]
        all_rates = np.concatenate([[given], np.arange(0.002, 0.5, 0.002)])
        held = (low <= all_rates) & (all_rates <= high)
        covered = (scipy.stats.binom.pmf(won[:, None], n, all_rates) * held).sum(axis=0)
        show("rates", f"n = {n}, rate {given:.0%}", per_cent(covered[0]))
        worst = all_rates[covered.argmin()]
        show("rates", f"n = {n}, the lowest of 0.2 to 50 %, at {worst:.1%}", per_cent(covered.min()))
    ends = [rate_interval([1.0] * w + [0.0] * (50 - w)).pair() for w in range(51)]
    show("rates", "upper end of 0, 1 and 2 wins of 50", ", ".join(per_cent(high) for _, high in ends[:3]))
    monotone = all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(ends))
    show("rates", "more wins never lower an end", "yes" if monotone else "no")


def nothing_varies(repetitions: int) -> None:
    """Exact coverage of a paired difference of win rates where few prompts differ, all the same way."""
    for n in (50, 100, 300):
        low, high = rate_interval(np.zeros(n), bounds=(-1, 1)).pair()
        show("all equal", f"n = {n}, none differs: interval, points", f"{100 * low:.1f} to {100 * high:.1f}")
        ends = np.array([
            rate_interval([1.0] * k + [0.0] * (n - k), bounds=(-1, 1)).pair() for k in range(n + 1)
        ])  # fmt: skip
        truth = np.arange(0.001, 0.1, 0.001)
        held = (ends[:, :1] <= truth) & (truth <= ends[:, 1:])
        covered = (scipy.stats.binom.pmf(np.arange(n + 1)[:, None], n, truth) * held).sum(axis=0)
        show("all equal", f"n = {n}, true gain 0.1 to 10 points, all one way: lowest", per_cent(covered.min()))


def sign_flips(repetitions: int) -> None:
    """Exact share of p ≤ 5 % under the null, over how many of n prompts differ."""
    most = 160
    rejects = np.zeros(most + 1)
    for k in range(1, most + 1):
        # The p-value falls as |up − down| grows: the rejected region is found from the outside.
        up = 0
        while up <= k // 2 and sign_flip_p_value([1.0] * up + [-1.0] * (k - up)) <= 0.05:
            rejects[k] += 2 * scipy.stats.binom.pmf(up, k, 0.5)
            up += 1
    for n, q in ((50, 0.2), (100, 0.1), (200, 0.05), (200, 0.1), (200, 0.3), (200, 0.6)):
        share = float(scipy.stats.binom.pmf(np.arange(most + 1), n, q) @ rejects)
        show("sign flips", f"n = {n}, {q:.0%} of prompts differ: rejects at 5 %", per_cent(share))


def clusters(repetitions: int) -> None:
    """Four rows a prompt, with more or less in common: rates, and means of scores."""
    for count in (25, 50, 200):
        for common in (0.1, 0.5, 0.9):
            for kind, low_high in (("rate", _of_rate), ("score", _of_score)):
                held, rng = 0, np.random.default_rng(1)
                numbers = np.repeat(np.arange(count), 4)
                for seed in range(repetitions):
                    of_prompt = rng.normal(size=count)[numbers]
                    latent = np.sqrt(common) * of_prompt + np.sqrt(1 - common) * rng.normal(size=4 * count)
                    held += low_high(latent, numbers, seed)
                case = f"{count} prompts × 4 rows, {kind}, {common:.0%} in common"
                show("clusters", case, per_cent(held / repetitions))


def _of_rate(latent: Floats, numbers: Floats, seed: int) -> bool:
    truth = 0.3
    won = (latent > scipy.stats.norm.isf(truth)).astype(float)
    low, high = rate_interval(won, clusters=numbers).pair()  # type: ignore[arg-type]
    return low <= truth <= high


def _of_score(latent: Floats, numbers: Floats, seed: int) -> bool:
    found = mean_interval(latent, clusters=numbers, seed=seed, n_resamples=RESAMPLES)  # type: ignore[arg-type]
    return found.low <= 0 <= found.high


def seeds(repetitions: int) -> None:
    """Training seeds, whose effects are a small, a middling or a large part of all doubt; 100 prompts."""
    P = 100
    for S in (2, 3, 4, 5, 7, 10, 15, 20):
        found = []
        for seed_sd in (0.0, 0.03, 0.07, 0.2):
            held, rng = 0, np.random.default_rng(2)
            for repetition in range(repetitions):
                x = rng.normal(0, seed_sd, (1, S)) + rng.normal(0, 0.5, (P, 1)) + rng.normal(0, 0.5, (P, S))
                pooled = pool(x, list(range(S)), seed=repetition, n_resamples=RESAMPLES)
                assert pooled is not None
                held += pooled.ci95[0] <= 0 <= pooled.ci95[1]
            found.append(per_cent(held / repetitions))
        show("seeds", f"S = {S}; sd of seeds 0, 0.03, 0.07, 0.2 (of prompts 0.5)", ", ".join(found))


def length_control(repetitions: int) -> None:
    """The win rate at equal length, with the difficulty that other methods tell: see length_control.py."""

    def told(case: str, value: str) -> None:
        show("length", case, value)

    lengths.published(told, RESAMPLES)
    for folder in STUDIES:
        lengths.of_study(told, folder, RESAMPLES)
    lengths.simulated(told, repetitions // 5, RESAMPLES // 2)


ROWS: dict[str, Callable[[int], None]] = {
    "rates": rates,
    "nothing_varies": nothing_varies,
    "sign_flips": sign_flips,
    "clusters": clusters,
    "seeds": seeds,
    "length_control": length_control,
}
STUDIES: list[Path] = []
"""Folders of studies, for the row of length control."""


def asked() -> Iterator[tuple[Callable[[int], None], int]]:
    """The rows that the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--study", type=Path, action="append", default=[], help="a study's folder")
    arguments = parser.parse_args()
    STUDIES.extend(arguments.study)
    for name in arguments.rows.split(","):
        yield ROWS[name], arguments.repetitions


if __name__ == "__main__":
    for row, times in asked():
        row(times)
