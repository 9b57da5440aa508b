"""Sliced log-probabilities: the numbers of the whole, the memory of a slice."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.models import logprobs
from trimtab.models.logprobs import token_logps


def test_by_hand() -> None:
    """Logits (0, ln 3): p = (1/4, 3/4); the entropy is ln 4 − (3/4) ln 3."""
    logits = torch.tensor([[0.0, math.log(3.0)]]).repeat(2, 1)
    logps, entropy = token_logps(lambda x: x, logits, torch.tensor([0, 1]), 2, with_entropy=True)
    assert logps.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([math.log(4) - 0.75 * math.log(3)] * 2)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients with slices of 16 tokens equal those in one piece."""
    torch.manual_seed(0)
    hidden, target = torch.randn(70, 8, requires_grad=True), torch.randint(0, 33, (70,))
    head = torch.nn.Linear(8, 33)

    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logps, _ = token_logps(head, hidden, target, 33)
        grads = torch.autograd.grad((logps * torch.arange(70.0)).sum(), (hidden, head.weight))
        return logps, *grads

    whole = run()
    monkeypatch.setattr(logprobs, "SLICE_ENTRIES", 1)
    for a, b in zip(whole, run(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_no_step_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head never sees more than a slice of the tokens, forward or backward."""
    monkeypatch.setattr(logprobs, "SLICE_ENTRIES", 20 * 33)
    seen: list[int] = []
    head = torch.nn.Linear(8, 33)

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape[0])
        return head(hidden)

    logps, _ = token_logps(counted, torch.randn(70, 8, requires_grad=True), torch.randint(0, 33, (70,)), 33)
    logps.sum().backward()
    assert max(seen) == 20
    assert len(seen) == 8, "four slices, each computed again in the backward pass"
