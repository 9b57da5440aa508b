"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.losses.preference import dpo
from trimtab.losses.sft import sft


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_sft_by_hand() -> None:
    """Tokens with probability 1/2, 1/4, 1/8: nats 1, 2 and 3 times ln 2. By 3 tokens 2 ln 2; by one
    sequence (the report's Eq. 2) 6 ln 2."""
    logps = torch.log(t(0.5, 0.25, 0.125))
    assert float(sft(logps, total=3)) == pytest.approx(2 * math.log(2))
    assert float(sft(logps, total=1)) == pytest.approx(6 * math.log(2))


def test_dpo_of_equal_models_is_ln_2_and_rewards_are_0() -> None:
    out = dpo(t(-5, -7), t(-6, -2), t(-5, -7), t(-6, -2), beta=0.1)
    assert out.losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert out.chosen_rewards.tolist() == out.rejected_rewards.tolist() == [0, 0]


def test_dpo_by_hand() -> None:
    """chosen log-ratio −3 − (−5) = 2, rejected −6 − (−4) = −2, beta 1/2: rewards 1 and −1, margin 2,
    loss −log σ(2) = log(1 + e⁻²)."""
    out = dpo(t(-3), t(-6), t(-5), t(-4), beta=0.5)
    assert float(out.chosen_rewards) == pytest.approx(1.0)
    assert float(out.rejected_rewards) == pytest.approx(-1.0)
    assert float(out.losses) == pytest.approx(math.log1p(math.exp(-2)))


def test_dpo_gradient_by_hand() -> None:
    """∂L/∂log π(y_w) = −β σ(−margin) = −0.5 · σ(−2), and the opposite for y_l; rewards carry none."""
    chosen, rejected = t(-3).requires_grad_(), t(-6).requires_grad_()
    out = dpo(chosen, rejected, t(-5), t(-4), beta=0.5)
    out.losses.sum().backward()
    slope = 0.5 / (1 + math.exp(2))
    assert float(chosen.grad) == pytest.approx(-slope)
    assert float(rejected.grad) == pytest.approx(slope)
    assert not out.chosen_rewards.requires_grad


def test_dpo_is_finite_far_out() -> None:
    out = dpo(t(-1e5), t(0), t(0), t(-1e5), beta=1.0)
    assert torch.isfinite(out.losses).all()


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\[P\]"):
        dpo(t(1, 2), t(1), t(1, 2), t(1, 2), beta=0.1)
    with pytest.raises(ValueError, match=r"\[M\]"):
        sft(torch.zeros(2, 2), 1)
