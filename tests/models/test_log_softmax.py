"""log softmax in the memory of the logits: torch's own numbers, and gradients by finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.models import log_softmax
from trimtab.models.log_softmax import LogSoftmax


def by_torch(
    logits_SV: Tensor, target_S: Tensor, temperature_S: Tensor | None, stops: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """logps, entropy and stop_logps as their definitions have them."""
    scaled_SV = logits_SV if temperature_S is None else logits_SV / temperature_S[:, None]
    logps_SV = torch.log_softmax(scaled_SV, -1)
    picked_S = logps_SV.gather(-1, target_S[:, None])[:, 0]
    stop_S = None if stops is None else logps_SV[:, stops].logsumexp(-1)
    return picked_S, -(logps_SV.exp() * logps_SV).sum(-1), stop_S


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    spread=st.floats(0.1, 30),
    tempered=st.booleans(),
    stopping=st.booleans(),
    entropy=st.booleans(),
    block=st.sampled_from([1, 64, 2**17]),
)
def test_values_and_gradients_are_torchs(
    rows: int, vocabulary: int, spread: float, tempered: bool, stopping: bool, entropy: bool, block: int
) -> None:
    """Whatever is asked for beside them, and however the rows are cut into blocks."""
    generator = torch.Generator().manual_seed(rows * 100 + vocabulary)
    logits = (spread * torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator)).requires_grad_()
    target = torch.randint(0, vocabulary, (rows,), generator=generator)
    temperature = torch.linspace(0.5, 2, rows, dtype=torch.float64) if tempered else None
    stops = torch.tensor([0, vocabulary - 1]) if stopping else None
    expected = by_torch(logits, target, temperature, stops)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_softmax, "BLOCK_ENTRIES", block)
        logps, entropy_S, stop_logps = LogSoftmax.apply(logits.clone(), target, temperature, stops, entropy, True)
    torch.testing.assert_close(logps, expected[0])
    weight = torch.linspace(-1, 2, rows, dtype=torch.float64)
    mine, theirs = (weight * logps).sum(), (weight * expected[0]).sum()
    if entropy:
        torch.testing.assert_close(entropy_S, expected[1])
    if stopping:
        torch.testing.assert_close(stop_logps, expected[2])
        mine, theirs = mine + (weight**2 * stop_logps).sum(), theirs + (weight**2 * expected[2]).sum()
    [mine_grad], [their_grad] = (torch.autograd.grad(loss, logits) for loss in (mine, theirs))
    torch.testing.assert_close(mine_grad, their_grad)


def test_one_buffer_is_enough() -> None:
    """The probabilities, and then the gradient, lie where the logits lay; a second backward pass is refused."""
    logits = torch.randn(4, 10, requires_grad=True)
    own = logits * 1.0
    logps, _, _ = LogSoftmax.apply(own, torch.tensor([1, 2, 3, 4]), None, None, True, True)
    torch.testing.assert_close(own.detach(), logits.detach().softmax(-1))
    logps.sum().backward(retain_graph=True)
    torch.testing.assert_close(own.detach(), logits.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logps.sum().backward()


def test_certain_tokens_stay_finite() -> None:
    """Logits 200 apart: log π is 0 and −200, the entropy 0, and no gradient is NaN."""
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0]], requires_grad=True)
    logps, entropy, _ = LogSoftmax.apply(logits * 1.0, torch.tensor([0, 1]), None, None, True, True)
    assert logps.tolist() == [0.0, -200.0]
    assert entropy.tolist() == [0.0, 0.0]
    logps.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]
