"""Killed with SIGKILL and started again, a run ends with bit-identical weights and unbroken curves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import Commands

SETTINGS = {
    "sft": ["learning_rate=1e-3"],
    "dpo": ["learning_rate=3e-4", "beta=0.5"],
}
COMMON = [
    "batch_size=4",
    "max_steps=12",
    "evaluation_interval=3",
    "checkpoint_interval=4",
    "logging_interval=2",
    "token_budget=400",
    "data.validation_rows=10",
    "data.max_length=200",
]


Run = Callable[[str, Path, str, int], int]


@pytest.fixture(scope="module")
def trimtab(commands: Commands, toy_model: Path, toy_pairs: Path) -> Run:
    """Trains by a method into a folder, up to a moment; its exit code."""

    def run(method: str, out: Path, moment: str, count: int) -> int:
        options = [item for setting in [*SETTINGS[method], *COMMON] for item in ("--set", setting)]
        words = [method, "--model", str(toy_model), "--data", str(toy_pairs), "--out", str(out), *options]
        return commands.run(*words, moment=moment, count=count).returncode

    return run


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "best" / "model.safetensors").read_bytes()).hexdigest()


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, trimtab: Run) -> dict[str, Path]:
    """Uninterrupted runs of each method."""
    found = {}
    for method in SETTINGS:
        out = tmp_path_factory.mktemp("whole") / method
        assert trimtab(method, out, "none", 1) == 0
        found[method] = out
    return found


MOMENTS = [
    ("sft", "step", 3),  # before the first checkpoint
    ("sft", "step", 11),
    ("sft", "checkpoint", 2),
    ("dpo", "reference", 3),
    ("dpo", "step", 8),
    ("dpo", "best", 3),
    ("dpo", "done", 1),
]


@pytest.mark.parametrize(("method", "moment", "count"), MOMENTS)
def test_killed_and_started_again(
    method: str,
    moment: str,
    count: int,
    whole: dict[str, Path],
    trimtab: Run,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    assert trimtab(method, out, moment, count) == -9, "it was to be killed"
    assert not (out / "done.json").exists()
    assert trimtab(method, out, "none", 1) == 0
    assert digest(out) == digest(whole[method])
    assert rows(out) == rows(whole[method])
    assert not list(out.rglob("*.tmp"))
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(("signal", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_asked_to_stop_it_keeps_the_step(
    signal: str, code: int, whole: dict[str, Path], trimtab: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert trimtab("sft", out, signal, 6) == code
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-00000006"], "every fourth is its own"
    assert not (out / ".trimtab.lock").exists()
    assert trimtab("sft", out, "none", 1) == 0
    assert digest(out) == digest(whole["sft"])
    assert rows(out) == rows(whole["sft"])


def test_done_is_not_done_again(whole: dict[str, Path], trimtab: Run) -> None:
    before = (whole["sft"] / "best" / "model.safetensors").stat().st_mtime_ns
    assert trimtab("sft", whole["sft"], "step", 1) == 0, "no step is taken"
    assert (whole["sft"] / "best" / "model.safetensors").stat().st_mtime_ns == before
