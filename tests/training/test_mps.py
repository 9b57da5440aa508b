"""A Mac's GPU (MPS), as far as it can be looked at without one: which device is chosen, and what is asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretend_mps import MPS, OnMps, has_kernel, pretending
from training.processes import run_jobs
from trimtab import devices
from trimtab.errors import TrimtabError
from trimtab.losses.policy_gradient import future_sums
from trimtab.models.settings import resolve_precision
from trimtab.notices import collected
from trimtab.rollout.drawing import Temperatures, draw
from trimtab.rollout.nucleus import nucleus
from trimtab.training.accelerator import make_accelerator
from trimtab.training.checkpoint import random_states
from trimtab.training.schedule import TrainingSettings

pytestmark = pytest.mark.slow

METHODS = ["sft_length", "distillation", "dpo_sft", "ranking", "reward", "grpo_fixed", "ppo"]


@pytest.mark.parametrize("job", METHODS)
def test_every_operator_of_a_stage_runs_on_mps(
    job: str, toy_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From loading to what is saved, sampling, steps and evaluations between: kernels there, and no float64."""
    with pretending(monkeypatch) as record:
        run_jobs(toy_model, toy_pairs, tmp_path / "out", [job])
    assert record.asked >= {"mm", "_fused_adamw_", "embedding_dense_backward"}, "it was there that it trained"
    assert record.lacking == set()


def test_what_mps_lacks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's list: none of these has a kernel for it, though there may be one on the CPU."""
    with pretending(monkeypatch) as record:
        x = torch.ones(3, device="mps")
        assert x.device == MPS
        x.double()
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*[x.view(1, 1, 1, 3)] * 3)
    assert record.lacking == {
        "_to_copy in torch.float64", "aten::_scaled_dot_product_flash_attention_for_cpu",
    }  # fmt: skip
    assert has_kernel("mm")
    assert has_kernel("add_.Tensor")
    assert not has_kernel("_scaled_dot_product_flash_attention_for_cpu_backward")


def test_the_device_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(devices.ASKED_FOR_CPU, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pretending(monkeypatch):
        assert devices.best_device() == torch.device("mps")
        assert not devices.on_cpu()
        assert devices.name_of(devices.best_device()) == "Apple GPU (MPS)"
        assert devices.peak_memory(devices.best_device()) == 2**20
        assert "mps" in random_states()
        for value, expected in (("1", "cpu"), ("true", "cpu"), ("0", "mps"), ("", "mps")):
            monkeypatch.setenv(devices.ASKED_FOR_CPU, value)
            assert devices.best_device().type == expected, value
        monkeypatch.delenv(devices.ASKED_FOR_CPU)
        with collected():
            assert make_accelerator(TrainingSettings(learning_rate=1, precision="float32")).device.type == "mps"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert devices.best_device().type == "cuda"


def test_it_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    devices.say_device(torch.device("cpu"), "float32")
    assert capsys.readouterr() == ("", "")
    devices.say_device(torch.device("mps"), "float32")
    said = "".join(capsys.readouterr())
    assert "the Mac's GPU (MPS) in float32" in said
    assert said.count("\n") == 1


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major <= 13)
    assert resolve_precision("auto", MPS) == resolve_precision("float32", MPS) == "float32"
    with pytest.raises(TrimtabError, match="macOS 14"):
        resolve_precision("bf16", MPS)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: True)
    assert resolve_precision("bf16", MPS) == "bf16"


def test_the_same_numbers_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added up in float64 leaves the device for it and comes back; a draw takes the same token."""
    logits, uniform = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)), torch.rand(5).double()
    owner, lengths = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 3])
    expected = draw(logits.clone(), uniform, Temperatures(None, None), None, top_p=0.7)
    sums = future_sums(logits[:, 0], owner, lengths)
    with pretending(monkeypatch) as record:
        found = draw(OnMps(logits.clone()), uniform, Temperatures(None, None), None, top_p=0.7)
        theirs = future_sums(OnMps(logits[:, 0]), OnMps(owner), OnMps(lengths))
        assert isinstance(nucleus(OnMps(logits), 0.5), OnMps)
    assert isinstance(found.token, OnMps)
    assert isinstance(theirs, OnMps)
    assert torch.equal(found.token.held, expected.token)
    assert torch.equal(theirs.held, sums)
    assert record.lacking == set()
