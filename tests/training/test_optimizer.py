"""Adam with float32 moments and with moments in eight bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trimtab.errors import TrimtabError
from trimtab.methods.sft import SFTSettings
from trimtab.training import adamw_8bit
from trimtab.training.adamw_8bit import AdamW8bitInPieces
from trimtab.training.checkpoint import Checkpoints
from trimtab.training.folder import inputs_key
from trimtab.training.optimizer import make_optimizer
from trimtab.training.weights import Weights

RATE, BETAS, EPSILON, DECAY = 0.01, (0.8, 0.9), 1e-3, 0.1
SETTINGS = SFTSettings(
    learning_rate=RATE, adam_betas=BETAS, adam_epsilon=EPSILON, weight_decay=DECAY, optimizer="adamw_8bit"
)  # fmt: skip


def model() -> nn.Module:
    """A matrix of 96 × 64, of which moments are in eight bits, and 96 biases, of which they are not."""
    torch.manual_seed(0)
    return nn.Linear(64, 96)


def step(of: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for p in of.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def test_the_first_step_is_adams() -> None:
    """From moments of 0: w ← w − rate (decay w + g / (|g| + ε)), since both corrections undo what was damped."""
    trained = model()
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    step(trained, make_optimizer(trained, SETTINGS), 0)
    for name, p in trained.named_parameters():
        assert p.grad is not None
        decay = DECAY if p.ndim == 2 else 0.0
        moved = before[name] * (1 - RATE * decay) - RATE * p.grad / (p.grad.abs() + EPSILON)
        torch.testing.assert_close(p.detach(), moved, rtol=1e-6, atol=1e-7)


def test_ten_steps_stay_near_those_of_float32_moments() -> None:
    """Each step is at most about the rate; what eight bits lose is a small part of the way."""
    eight, full = model(), model()
    start = eight.weight.detach().clone()
    optimizers = (
        make_optimizer(eight, SETTINGS),
        make_optimizer(full, SETTINGS.model_copy(update={"optimizer": "adamw"})),
    )
    for number in range(10):
        for trained, optimizer in zip((eight, full), optimizers, strict=True):
            step(trained, optimizer, number)
    assert not torch.equal(eight.weight, full.weight)
    assert (eight.weight - full.weight).norm() < 0.03 * (full.weight - start).norm()
    torch.testing.assert_close(eight.bias, full.bias)


def test_a_moment_of_a_matrix_takes_a_byte() -> None:
    trained = model()
    optimizer = make_optimizer(trained, SETTINGS)
    step(trained, optimizer, 0)
    state = optimizer.state[trained.weight]
    sizes = {name: (x.dtype, x.numel()) for name, x in state.items() if isinstance(x, torch.Tensor)}
    assert {name: size for name, size in sizes.items() if "qmap" not in name} == {
        "state1": (torch.uint8, 96 * 64), "state2": (torch.uint8, 96 * 64),
        "absmax1": (torch.float32, 24), "absmax2": (torch.float32, 24),
    }  # fmt: skip
    assert optimizer.state[trained.bias]["state1"].dtype == torch.float32


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """6,144 weights whole, and in pieces of 1,024 with a rest: to the last bit, moments and scales too."""
    whole, cut = model(), model()
    optimizers = make_optimizer(whole, SETTINGS), make_optimizer(cut, SETTINGS)
    for number in range(4):
        step(whole, optimizers[0], number)
        with monkeypatch.context() as patch:
            patch.setattr(adamw_8bit, "PIECE", 5 * 256)
            step(cut, optimizers[1], number)
    assert torch.equal(whole.weight, cut.weight)
    states = (optimizer.state[p] for optimizer, p in zip(optimizers, (whole.weight, cut.weight), strict=True))
    first, second = states
    assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first)


def test_resumed_is_the_same(tmp_path: Path) -> None:
    """Two steps, a checkpoint, two steps; and the last two again from the checkpoint."""
    trained = model()
    optimizer = make_optimizer(trained, SETTINGS)
    for number in range(2):
        step(trained, optimizer, number)
    kept = Checkpoints(tmp_path)
    kept.save(2, Weights(trained), optimizer, {})
    other = model()
    resumed = make_optimizer(other, SETTINGS)
    kept.load(2, Weights(other), resumed)
    for number in (2, 3):
        step(trained, optimizer, number)
        step(other, resumed, number)
    assert torch.equal(trained.weight, other.weight)
    assert torch.equal(optimizer.state[trained.weight]["state1"], resumed.state[other.weight]["state1"])
    assert isinstance(resumed, AdamW8bitInPieces)


def test_a_folder_of_before_the_setting_is_still_the_same_run() -> None:
    of = {"settings": {"learning_rate": 0.1}}
    now = {"settings": {"learning_rate": 0.1, "optimizer": "adamw"}}
    other = {"settings": {"learning_rate": 0.1, "optimizer": "adamw_8bit"}}
    assert inputs_key(of) == inputs_key(now) != inputs_key(other)


def test_without_bitsandbytes_it_says_what_to_install() -> None:
    """In a process in which it cannot be imported."""
    code = (
        "import sys; sys.modules['bitsandbytes'] = None\n"
        "from torch import nn; from trimtab.methods.sft import SFTSettings\n"
        "from trimtab.training.optimizer import make_optimizer\n"
        "make_optimizer(nn.Linear(2, 2), SFTSettings(learning_rate=1, optimizer='adamw_8bit'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert TrimtabError.__name__ in ran.stderr
    assert "pip install 'trimtab[quantize]'" in ran.stderr
