"""Killed while it samples, scores or updates, and started again, a run ends with bit-identical weights and the
same curves and completions: GRPO, PPO with its value head, and SFT with a length penalty, which samples too; and
with a curriculum, whose pace a metric sets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from commands import Commands
from trimtab.training.metrics import read_metrics

REWARD = """
def low(completion_ids):
    return [float(sum(token < 896 for token in ids)) for ids in completion_ids]
"""
COMMON = {
    "batch_size": 3, "learning_rate": 3e-3, "warmup_steps": 2, "max_steps": 6, "evaluation_interval": 4,
    "checkpoint_interval": 1, "logging_interval": 2, "token_budget": 400, "precision": "float32",
    "data.validation_rows": 4, "data.max_length": 200,
}  # fmt: skip
GRPO = {"samples": 3, "sampling.max_new_tokens": 6, "kl_coefficient": 0.05}
PACED = {"order.pace": "metric", "order.start": 0.1, "order.growth": 0.2, "order.window": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "one update": GRPO,
    "two updates": GRPO | {"updates_per_batch": 2},
    "fixed": GRPO | {"rollouts": "fixed", "kl": "k2", "fixed_prompts": 7},
    "ppo": {"samples": 2, "sampling.max_new_tokens": 6, "kl_coefficient": 0.05, "updates_per_batch": 2},
    "ppo lora": {"samples": 2, "sampling.max_new_tokens": 6, "updates_per_batch": 2, "lora.rank": 2},
    "length penalty": {
        "length_penalty.interval": 2, "length_penalty.max_new_tokens": 6, "length_penalty.weight": 1.0,
    },
    "ordered": GRPO | PACED | {
        "updates_per_batch": 2, "order.by": "reward", "order.samples": 2, "order.bound": 1, "order.window": 1,
    },
    "ordered dpo": PACED | {"order.by": "margin", "order.bound": 0.1, "order.direction": "hard_first"},
}  # fmt: skip
"""A step draws 6 times at most and asks for 9 scores; an evaluation draws as often and asks for 4."""
KILLS = [
    ("one update", "sampling", 20),
    ("one update", "scoring", 30),
    ("one update", "update", 4),
    # With two updates a batch is used at steps 1 and 2, 3 and 4, 5 and 6.
    ("two updates", "sampling", 14),
    ("two updates", "scoring", 20),
    ("two updates", "update", 4),  # the second on its batch, which the checkpoint after step 3 must hold
    ("fixed", "update", 4),
    ("ppo", "sampling", 14),
    ("ppo", "update", 4),
    ("ppo lora", "update", 4),
    ("length penalty", "sampling", 10),
    ("ordered", "update", 4),
    ("ordered dpo", "update", 4),
]


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, stopping_model: Path, toy_pairs: Path, commands: Commands
) -> Path:
    """Every run, uninterrupted and killed and started again, in a folder of its own; exit codes in codes.json."""
    root = tmp_path_factory.mktemp("resumed")
    (root / "reward.py").write_text(REWARD)

    def job(kind: str, out: str, moment: str, count: int) -> tuple[str, int, list[str]]:
        method = {"length penalty": "sft", "ppo": "ppo", "ppo lora": "ppo", "ordered dpo": "dpo"}.get(kind, "grpo")
        reward = [] if method in ("sft", "dpo") else ["--reward", f"{root / 'reward.py'}:low"]
        options = [x for key, value in (COMMON | SETTINGS[kind]).items() for x in ("--set", f"{key}={value}")]
        where = ["--model", str(stopping_model), "--data", str(toy_pairs), "--out", str(root / out)]
        return moment, count, [method, *where, *reward, *options]

    jobs = [job(kind, kind, "none", 1) for kind in SETTINGS]
    for kind, moment, count in KILLS:
        out = f"{kind} {moment}"
        jobs += [job(kind, out, moment, count), job(kind, out, "none", 1)]
    (root / "codes.json").write_text(json.dumps([done.returncode for done in commands.in_turn(jobs)]))
    return root


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "best" / "model.safetensors").read_bytes()).hexdigest()


def rows(folder: Path) -> list[dict[str, Any]]:
    found = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_uninterrupted_runs_trained(kind: str, folders: Path) -> None:
    assert json.loads((folders / "codes.json").read_text())[list(SETTINGS).index(kind)] == 0
    assert [row["step"] for row in rows(folders / kind)] == [0, 2, 4, 4, 6, 6]


@pytest.mark.parametrize("kind", ["ordered", "ordered dpo"])
def test_the_pace_changed_before_the_kill_and_after(kind: str, folders: Path) -> None:
    shares = [row["order/share"] for row in rows(folders / kind) if "order/share" in row]
    assert shares == sorted(set(shares))


@pytest.mark.parametrize(("kind", "moment", "count"), KILLS)
def test_killed_and_started_again(kind: str, moment: str, count: int, folders: Path) -> None:
    codes = json.loads((folders / "codes.json").read_text())[len(SETTINGS) :]
    place = 2 * KILLS.index((kind, moment, count))
    assert codes[place : place + 2] == [-9, 0], "killed, then finished"
    whole, resumed = folders / kind, folders / f"{kind} {moment}"
    assert rows(resumed) == rows(whole)
    assert read_metrics(resumed / "completions.jsonl") == read_metrics(whole / "completions.jsonl")
    assert digest(resumed) == digest(whole)
    assert not (resumed / "checkpoints").exists()
