"""A Mac's GPU (MPS), as far as it can be looked at without one: which device is chosen, and what is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pretend_mps import OnMps, has_kernel, pretending
from training.processes import run_jobs
from trimtab import devices

METHODS = ["sft_length", "sft_countdown", "sft_lora", "distillation", "dpo_sft", "kto", "ranking", "reward", "grpo_fixed", "ppo"]


@pytest.mark.parametrize("job", METHODS)
def test_every_operator_of_a_stage_runs_on_mps(
    job: str, toy_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From loading over sampling, steps and evaluations to what is saved: operators with a kernel, and no float64."""
    with pretending(monkeypatch) as record:
        run_jobs(toy_model, toy_pairs, tmp_path / "out", [job])
    assert record.asked >= {"mm", "_fused_adamw_", "embedding_dense_backward"}, "it was there that it trained"
    assert record.lacking == set()
