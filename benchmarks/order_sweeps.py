"""Curricula and reward ensembles in the sandbox, three training seeds each: docs/experiment_log.md.

    python benchmarks/order_sweeps.py OUT dpo        DPO with each order against the random one
    python benchmarks/order_sweeps.py OUT ensemble   GRPO on one reward model, and on five heads with k 0 and 1

As benchmarks/sandbox_sweeps.py. Each seed orders the rows anew; all start from one SFT model. A difference is taken
seed by seed, over the same 400 prompts; its interval is Student's, of three seeds (2 degrees of freedom).
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from sandbox_sweeps import LAST, SFT_RATE, Sweep, table

from trimtab.rewards.base import Reward
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.ensemble import EnsembleReward
from trimtab.training.metrics import read_metrics

SEEDS = (0, 1, 2)
T_95 = 4.303
"""Student's, two-sided, 2 degrees of freedom."""
ORDERS: dict[str, dict[str, Any] | None] = {
    "random": None,
    "margin": {"by": "margin"},
    "margin, hard first": {"by": "margin", "direction": "hard_first"},
    "length": {"by": "length"},
    "loss": {"by": "loss"},
}


def interval(values: list[float], digits: int) -> str:
    """Mean [95 % interval over the seeds]."""
    half = T_95 * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def judged(sweep: Sweep, name: str, model: Path) -> dict[str, float]:
    """Means over the test prompts."""
    found = sweep.outputs(name, model)
    scores = [score.score for score in found.scores]
    theirs = [score.score for score in sweep.opponent.scores]
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(scores, theirs, strict=True)]
    correct = [score.breakdown["correctness"] for score in found.scores]
    return {
        "win rate, points": 100 * statistics.mean(wins),
        "gold": statistics.mean(scores),
        "correctness": statistics.mean(correct),
        "tokens": statistics.mean(g.tokens for g in found.generations),
    }


def compare(kinds: dict[str, list[dict[str, float]]], first: str) -> None:
    """Means of each kind over the seeds, and their differences to the first."""
    rows = []
    for name, seeds in kinds.items():
        row = {"": name}
        for metric in seeds[0]:
            row[metric] = f"{statistics.mean(seed[metric] for seed in seeds):.2f}"
        for metric in ("win rate, points", "gold"):
            apart = [seed[metric] - other[metric] for seed, other in zip(seeds, kinds[first], strict=True)]
            row[f"{metric} − {first}"] = "" if name == first else interval(apart, 2)
        rows.append(row)
    table(rows)


def dpo(sweep: Sweep) -> None:
    """One epoch of 600 pairs in 38 steps; margins are the SFT model's: the sandbox's pairs have no scores. The last
    weights are kept."""
    kinds: dict[str, list[dict[str, float]]] = {name: [] for name in ORDERS}
    for seed in SEEDS:
        for name, order in ORDERS.items():
            place = f"dpo-{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            given = {"learning_rate": 1e-4, "beta": 0.05, "evaluation_interval": 38, "seed": seed, **LAST}
            folder = sweep.stage("dpo", place, sweep.sft(), sweep.data(600), order=order, **given)
            kinds[name].append(judged(sweep, place, folder / "best"))
            print(f"{place}: {kinds[name][-1]}", file=sys.stderr, flush=True)
    compare(kinds, "random")


def ensemble(sweep: Sweep) -> None:
    """60 steps of 16 prompts × 4 samples without a KL term, each seed on reward models of its own. Gold and KL of
    held-out prompts, every ten steps, say when the policy has had what the proxy is good for."""
    given: dict[str, Any] = {"learning_rate": SFT_RATE, "best_metric": "loss", "best_is": "lowest"}
    sampled = {"samples": 4, "sampling": {"max_new_tokens": 160, "batch_size": 256}, "validation_prompts": 60}
    kinds: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        one = sweep.stage("reward", f"proxy-{seed}", sweep.sft(), seed=seed, **given) / "best"
        five = sweep.stage("reward", f"proxy-heads-{seed}", sweep.sft(), heads=5, seed=seed, **given) / "best"
        proxies: dict[str, Reward] = {
            "one": ClassifierReward(str(one), name="proxy"),
            "five heads, k 0": EnsembleReward([ClassifierReward(str(five), name="proxy")], 0.0),
            "five heads, k 1": EnsembleReward([ClassifierReward(str(five), name="proxy")], 1.0),
        }
        for name, proxy in proxies.items():
            place = f"ensemble-{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            folder = sweep.stage(
                "grpo", place, sweep.sft(), reward=proxy, judge=sweep.judge, learning_rate=3e-4,
                kl_coefficient=0.0, max_steps=60, evaluation_interval=10, seed=seed, **sampled, **LAST,
            )  # fmt: skip
            watched = [row for row in read_metrics(folder / "metrics.jsonl") if "eval_judge" in row]
            best = max(watched, key=lambda row: row["eval_judge"])
            last = {"last gold": watched[-1]["eval_judge"], "last KL": watched[-1]["eval_kl"]}
            seen = {"best step": best["step"], "best gold": best["eval_judge"], **last}
            kinds.setdefault(name, []).append(judged(sweep, place, folder / "best") | seen)
            print(f"{place}: {kinds[name][-1]}", file=sys.stderr, flush=True)
    compare(kinds, "one")
    compare({name: seeds for name, seeds in kinds.items() if name != "one"}, "five heads, k 0")


if __name__ == "__main__":
    {"dpo": dpo, "ensemble": ensemble}[sys.argv[2]](Sweep(Path(sys.argv[1])))
