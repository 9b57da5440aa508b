"""The reward model's losses against numbers worked out by hand, and against TRL's own code."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trimtab.losses.reward_model import bradley_terry, center


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_by_hand() -> None:
    """Equal scores: −log σ(0) = ln 2. Ahead by ln 3: −log(3/4) = ln(4/3); behind by it: −log(1/4) = ln 4."""
    found = bradley_terry(t(5, math.log(3), 0), t(5, 0, math.log(3)))
    assert found.tolist() == pytest.approx([math.log(2), math.log(4 / 3), math.log(4)])


def test_a_margin_is_asked_for_on_top() -> None:
    """Ahead by ln 3 with a margin of ln 3 is no better than equal: ln 2. With none: ln(4/3)."""
    found = bradley_terry(t(math.log(3), math.log(3)), t(0, 0), t(math.log(3), 0))
    assert found.tolist() == pytest.approx([math.log(2), math.log(4 / 3)])


def test_gradient_by_hand() -> None:
    """∂L/∂s_w = −σ(−(s_w − s_l)) = −1/4 when ahead by ln 3, and the opposite for s_l."""
    chosen, rejected = t(math.log(3)).requires_grad_(), t(0).requires_grad_()
    bradley_terry(chosen, rejected).sum().backward()
    assert float(chosen.grad) == pytest.approx(-0.25)
    assert float(rejected.grad) == pytest.approx(0.25)


def test_center_by_hand() -> None:
    """(3 − 1)² = 4, with gradient 2 · 2 for both; a pair around 0 costs nothing."""
    chosen, rejected = t(3, 1).requires_grad_(), t(-1, -1).requires_grad_()
    found = center(chosen, rejected)
    assert found.tolist() == [4, 0]
    found.sum().backward()
    assert chosen.grad.tolist() == rejected.grad.tolist() == [4, 0]


def test_finite_far_out() -> None:
    assert bradley_terry(t(-1e5), t(1e5)).tolist() == [2e5]


def test_shapes_are_checked() -> None:
    for wrong in ((t(1, 2), t(1)), (t(1), t(1), t(1, 2)), (torch.zeros(2, 1), torch.zeros(2, 1))):
        with pytest.raises(ValueError, match=r"\[P\]"):
            bradley_terry(*wrong)
    with pytest.raises(ValueError, match=r"\[P\]"):
        center(t(1, 2), t(1))


@pytest.mark.parametrize("margin", [None, (0.5, 0.0, 2.0)])
@pytest.mark.parametrize("coefficient", [None, 0.01])
def test_equals_trls_reward_trainer(margin: tuple[float, ...] | None, coefficient: float | None) -> None:
    """RewardTrainer.compute_loss itself, on a stand-in for the trainer; chosen rows come before rejected."""
    trl = pytest.importorskip("trl")
    chosen, rejected = torch.tensor([1.5, -0.3, 4.0]), torch.tensor([0.2, 0.9, 3.5])
    same: Any = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=coefficient),
        accelerator=same,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(6, 1)} | ({} if margin is None else {"margin": torch.tensor(margin)})
    logits = torch.cat([chosen, rejected])[:, None]
    theirs = trl.RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    ours = bradley_terry(chosen, rejected, None if margin is None else torch.tensor(margin)).mean()
    ours = ours + (coefficient or 0) * center(chosen, rejected).mean()
    assert float(ours) == pytest.approx(float(theirs), abs=1e-7)
