"""GRPO with vLLM as its sampler, from prompts to a saved model, and again after it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training.grpo_runs import Ran, grpo, weights_of
from trimtab.rollout.sampler import Sampling, VLLMSettings
from trimtab.training.metrics import read_metrics

pytestmark = pytest.mark.vllm

STEPS = 4
SETTINGS: dict[str, Any] = {
    "sampling": Sampling(engine="vllm", vllm=VLLMSettings(cache_gib=0.25), max_new_tokens=12),
    "max_steps": STEPS, "checkpoint_interval": 1, "learning_rate": 3e-3, "samples": 6, "kl_coefficient": 0.0,
}  # fmt: skip


def test_a_run_learns_and_its_samples_are_of_the_weights_at_each_step(
    vllm_model: Path, vllm_pairs: Path, tmp_path: Path
) -> None:
    ran: Ran = grpo(vllm_model, vllm_pairs, tmp_path, validation=4, **SETTINGS)
    assert [row["step"] for row in ran.rows] == [1, 2, 3, 4]
    moved = max(float((w - ran.weights[n]).norm()) for n, w in weights_of(vllm_model).items())
    assert moved > 1e-2
    for row in ran.rows:
        assert row["sampling/sampling_logp_difference/max"] <= 2e-2
        assert row["sampling/effective_sample_size"] > 0.999
    # `low` counts tokens of the lower half of the vocabulary, at most 12.
    assert ran.rows[-1]["reward"] > ran.rows[0]["reward"] + 0.3
    assert "eval_reward" in ran.evaluations[-1]


def test_a_run_that_was_stopped_goes_on(
    vllm_model: Path, vllm_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StoppedError in the third step's rewards. With vLLM a resumed run is not promised to be bit-identical: the
    engine's rounding depends on what it did before."""

    class StoppedError(Exception):
        pass

    from trimtab.methods import collector as module

    calls, scored = [], module.score_samples

    def stops(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise StoppedError
        return scored(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "score_samples", stops)
        with pytest.raises(StoppedError):
            grpo(vllm_model, vllm_pairs, tmp_path, **SETTINGS)
    out = tmp_path / "out"
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row] == [1, 2]
    ran: Ran = grpo(vllm_model, vllm_pairs, tmp_path, **SETTINGS)
    assert [row["step"] for row in ran.rows] == [1, 2, 3, 4]
    assert len(calls) == 3, "and the second run scored by itself"
    whole = grpo(vllm_model, vllm_pairs, tmp_path / "whole", **SETTINGS)
    for name, weight in whole.weights.items():
        assert torch.allclose(weight, ran.weights[name], atol=1e-3), name
