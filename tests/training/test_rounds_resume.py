"""Killed while it draws, scores or trains, and started again, a run of several rounds ends with bit-identical
weights and the same pairs. What was drawn and scored is not drawn and scored again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Commands
from trimtab.training.metrics import read_metrics

pytestmark = pytest.mark.slow

REWARD = """
def low(completion_ids):
    with open(CALLS, "a") as out:
        out.write("x" * len(completion_ids))
    return [float(sum(token < 896 for token in ids)) for ids in completion_ids]
"""
SETTINGS: dict[str, Any] = {
    "rounds": 2, "prompts": 40, "samples": 2, "sampling.max_new_tokens": 4, "batch_size": 8, "max_steps": 4,
    "learning_rate": 3e-3, "warmup_steps": 1, "checkpoint_interval": 1, "evaluation_interval": 2,
    "logging_interval": 1, "precision": "float32", "data.validation_rows": 4, "data.max_length": 200,
}  # fmt: skip
KILLS = [
    # A round has a chunk of 32 prompts and one of 8, each drawn in 4 passes at most.
    ("sampling", 6),
    ("sampling", 12),
    ("scoring", 70),  # in the first round's second chunk: its scores are lost, the first chunk's are not
    ("step", 3),
    ("update", 7),  # in the second round
    ("done", 1),
]


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, stopping_model: Path, toy_pairs: Path, commands: Commands
) -> Path:
    """Every run, uninterrupted and killed and started again, in a folder of its own; exit codes in codes.json."""
    root = tmp_path_factory.mktemp("rounds_resumed")

    def job(out: str, moment: str, count: int) -> tuple[str, int, list[str]]:
        folder = root / out
        folder.mkdir(exist_ok=True)
        (folder / "reward.py").write_text(f"CALLS = {str(folder / 'calls.txt')!r}\n{REWARD}")
        options = [x for key, value in SETTINGS.items() for x in ("--set", f"{key}={value}")]
        where = ["--model", str(stopping_model), "--data", str(toy_pairs), "--out", str(folder / "run")]
        return moment, count, ["online-dpo", *where, "--reward", f"{folder / 'reward.py'}:low", *options]

    jobs = [job("whole", "none", 1)]
    for moment, count in KILLS:
        jobs += [job(f"{moment} {count}", moment, count), job(f"{moment} {count}", "none", 1)]
    (root / "codes.json").write_text(json.dumps([done.returncode for done in commands.in_turn(jobs)]))
    return root


def left(folder: Path) -> dict[str, Any]:
    """What a run leaves, without the clock."""
    run = folder / "run"
    found: dict[str, Any] = {}
    for number in (1, 2):
        stage, pairs = run / f"online_dpo-{number}", run / f"online_dpo-{number}-pairs"
        rows = read_metrics(stage / "metrics.jsonl")
        found |= {
            f"{number} weights": (stage / "best" / "model.safetensors").read_bytes(),
            f"{number} pairs": (pairs / "pairs.jsonl").read_text(),
            f"{number} curves": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        }
    return found


def test_the_uninterrupted_run_went_two_rounds(folders: Path) -> None:
    assert json.loads((folders / "codes.json").read_text())[0] == 0
    found = left(folders / "whole")
    assert found["1 weights"] != found["2 weights"]
    assert len((folders / "whole" / "calls.txt").read_text()) == 2 * 40 * 2


@pytest.mark.parametrize(("moment", "count"), KILLS)
def test_killed_and_started_again(moment: str, count: int, folders: Path) -> None:
    codes = json.loads((folders / "codes.json").read_text())[1:]
    place = 2 * KILLS.index((moment, count))
    assert codes[place : place + 2] == [-9, 0], "killed, then finished"
    resumed = folders / f"{moment} {count}"
    assert left(resumed) == left(folders / "whole")
    again = 8 * 2 if moment == "scoring" else 0
    assert len((resumed / "calls.txt").read_text()) == 2 * 40 * 2 + again
