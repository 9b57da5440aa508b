"""Sweeps of docs/experiment_log.md that optimise a proxy reward in the sandbox: PPO, and PERL.

    python benchmarks/reward_sweeps.py OUT ppo     PPO against GRPO (RLOO): same start, same proxy, as many samples
    python benchmarks/reward_sweeps.py OUT perl    LoRA against all weights, in the reward model and in GRPO

As benchmarks/sandbox_sweeps.py, whose folder it shares (the SFT start, its proxy and the opponent's answers are
there once), but every stage runs in a process of its own, so that its peak memory is its own. Intervals of
differences are 95 %, by bootstrap over the 400 prompts; they say nothing of another training seed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from sandbox_sweeps import LAST, SFT_RATE, Sweep, cost, table

from trimtab.data.splits import split_records
from trimtab.evaluation.sign_flips import paired_difference
from trimtab.evaluation.statistics import wilson_interval
from trimtab.models.settings import LoraSettings
from trimtab.plan.memory import count_parameters
from trimtab.rewards.classifier import ClassifierReward
from trimtab.training.metrics import read_metrics

SAMPLED: dict[str, Any] = {
    "sampling": {"max_new_tokens": 160, "batch_size": 256}, "logging_interval": 5, "validation_prompts": 60,
    "kl_coefficient": 0.05, **LAST,
}  # fmt: skip
PROXY = {"learning_rate": SFT_RATE, "best_metric": "loss", "best_is": "lowest"}
LORA = LoraSettings(rank=16, alpha=32, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
"""The attention's matrices, as in the paper."""


def _stage(out: Path, kind: str, name: str, model: str, proxy: str | None, given: dict[str, Any]) -> None:
    reward = ClassifierReward(proxy, name="proxy") if proxy else None
    Sweep(out).stage(kind, name, model, reward=reward, **given)


def alone(sweep: Sweep, kind: str, name: str, model: str, proxy: str | None = None, **given: Any) -> Path:
    """A stage in a process of its own, unless it is done."""
    folder = sweep.out / kind / name
    if not (folder / "done.json").is_file():
        child = multiprocessing.get_context("spawn").Process(
            target=_stage, args=(sweep.out, kind, name, model, proxy, given)
        )
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit(f"{name}: failed")
    return folder


def starts(sweep: Sweep) -> tuple[str, Path]:
    """The SFT model and the stage of its proxy, all weights trained."""
    sft = str(alone(sweep, "sft", "start", sweep.base, learning_rate=SFT_RATE, epochs=2) / "best")
    return sft, alone(sweep, "reward", "proxy", sft, **PROXY)


def optimised(sweep: Sweep, folder: Path, samples: int) -> dict[str, str]:
    last = read_metrics(folder / "metrics.jsonl")[-1]
    found = {"samples": str(samples), "proxy": f"{last['eval_reward']:.2f}", "KL": f"{last['eval_kl']:.2f}"}
    return found | sweep.row(folder.name, folder / "best") | {"CPU s": cost(folder)}


def differences(sweep: Sweep, models: dict[str, Path | str], pairs: list[tuple[str, str]]) -> None:
    """Paired over the prompts: win rate against the opponent in points, and gold score."""
    scores, wins = {}, {}
    theirs = [one.score for one in sweep.opponent.scores]
    for name, model in models.items():
        found = sweep.outputs("sft" if name == "SFT" else Path(model).parent.name, str(model))
        scores[name] = [one.score for one in found.scores]
        wins[name] = [100 * ((a > b) + 0.5 * (a == b)) for a, b in zip(scores[name], theirs, strict=True)]
    rows = []
    for a, b in pairs:
        row = {"": f"{a} − {b}"}
        for title, values in (("win rate, points", wins), ("gold", scores)):
            d = paired_difference(values[a], values[b])
            row[title] = f"{d.difference:+.2f} [{d.interval.low:.2f}, {d.interval.high:.2f}]"
        rows.append(row)
    table(rows)


def ppo(sweep: Sweep) -> None:
    """25 batches of 64 completions each: GRPO's of 16 prompts, PPO's of 64. The last weights are kept."""
    sft, stage = starts(sweep)
    proxy = str(stage / "best")
    reused = {"updates_per_batch": 4, "max_steps": 100}
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "PPO, 4 updates, 1e-4": ("ppo", {"batch_size": 64, "learning_rate": 1e-4, **reused}),
        "GRPO, 1 update, 3e-4": ("grpo", {"batch_size": 16, "samples": 4, "learning_rate": 3e-4, "max_steps": 25}),
    }
    rows = [{"method": "– (SFT)", "samples": "", "proxy": "", "KL": ""} | sweep.row("sft", sft) | {"CPU s": ""}]
    models: dict[str, Path | str] = {"SFT": sft}
    for name, (kind, given) in runs.items():
        place = f"rl-{name.replace(', ', '-').replace(' ', '_')}"
        interval = {"evaluation_interval": given["max_steps"]}
        folder = alone(sweep, kind, place, sft, proxy, **SAMPLED | given | interval)
        models[name] = folder / "best"
        rows.append({"method": name} | optimised(sweep, folder, 1600))
    table(rows)
    ours, *others = runs
    differences(sweep, models, [(name, "SFT") for name in runs] + [(ours, name) for name in others])
    explained = [
        f"{row['step']}: {row['val/explained_variance']:.2f}"
        for row in read_metrics(Path(models[ours]).parent / "metrics.jsonl")
        if "val/explained_variance" in row
    ]
    print("\nvariance of PPO's returns that its value explains, by step: " + ", ".join(explained))


def weights(model: str, lora: LoraSettings | None, folder: Path) -> dict[str, str]:
    sizes = count_parameters(model, lora)
    done = json.loads((folder / "done.json").read_text())
    return {
        "trained": f"{sizes.trained:,} of {sizes.total:,}",
        "gradients and moments": f"{12 * sizes.trained / 2**20:.1f} MiB",
        "peak memory": f"{done['peak_memory_bytes'] / 2**20:.0f} MiB",
    }


def accuracies(sweep: Sweep, folder: Path) -> dict[str, str]:
    """On the noisy labels of validation, and on the order of the gold judge (its ties left out)."""
    records = split_records(sweep.data()).validation
    columns = [[record.completions[side] for record in records] for side in (0, 1)]
    prompts = [record.prompt for record in records]

    def scores(reward: Any) -> list[list[float]]:
        return [[one.score for one in reward.scored(prompts, texts)] for texts in columns]

    proxy, gold = scores(ClassifierReward(str(folder / "best"), name="proxy")), scores(sweep.judge)
    right = [(a > b) for a, b in zip(*proxy, strict=True)]
    known = [(a > b) == (c > d) for a, b, c, d in zip(*proxy, *gold, strict=True) if c != d]

    def share(values: list[bool]) -> str:
        low, high = wilson_interval(sum(values), len(values)).pair()
        return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"

    return {"accuracy, labels": share(right), "accuracy, gold": share(known)}


def perl(sweep: Sweep) -> None:
    """LoRA of rank 16 on the attention's matrices, in both. GRPO: 25 steps of 16 prompts × 4 samples."""
    sft, plain = starts(sweep)
    adapted = alone(sweep, "reward", "proxy-lora", sft, **PROXY | {"learning_rate": 4 * SFT_RATE}, lora=LORA)
    rows = []
    for name, lora, folder in (("all weights", None, plain), ("LoRA", LORA, adapted)):
        found = weights(sft, lora, folder) | accuracies(sweep, folder)
        rows.append({"reward model": name} | found | {"CPU s": cost(folder)})
    table(rows)
    print()
    rows, models = [], {"SFT": sft}
    for name, lora, stage, rate in (
        ("all weights", None, plain, 3e-4),
        ("LoRA", LORA, adapted, 3e-3),
    ):
        given = {"batch_size": 16, "samples": 4, "learning_rate": rate, "max_steps": 25, "evaluation_interval": 25}
        place = "rl-GRPO-1_update-3e-4" if lora is None else f"rl-perl-{rate:g}"  # the former is ppo's own run
        folder = alone(sweep, "grpo", place, sft, str(stage / "best"), **SAMPLED | given, lora=lora)
        models[name] = str(folder / "best")
        rows.append({"GRPO": name} | weights(sft, lora, folder) | optimised(sweep, folder, 1600))
    table(rows)
    differences(sweep, models, [("all weights", "SFT"), ("LoRA", "SFT"), ("LoRA", "all weights")])


if __name__ == "__main__":
    {"ppo": ppo, "perl": perl}[sys.argv[2]](Sweep(Path(sys.argv[1])))
