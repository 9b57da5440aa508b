"""Sliced log-probabilities: the numbers of the whole, the memory of a slice."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.models import logprobs
from trimtab.models.logprobs import StatisticsRequest, token_logps


def test_by_hand() -> None:
    """Logits (0, ln 3): p = (1/4, 3/4); the entropy is ln 4 − (3/4) ln 3."""
    logits = torch.tensor([[0.0, math.log(3.0)]]).repeat(2, 1)
    logps, entropy, *_ = token_logps(lambda x: x, logits, torch.tensor([0, 1]), 2, StatisticsRequest(entropy=True))
    assert logps.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([math.log(4) - 0.75 * math.log(3)] * 2)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients with slices of 16 tokens, the first two of them kept, equal those in one piece."""
    torch.manual_seed(0)
    hidden, target = torch.randn(70, 8, requires_grad=True), torch.randint(0, 33, (70,))
    head = torch.nn.Linear(8, 33)

    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logps, *_ = token_logps(head, hidden, target, 33)
        grads = torch.autograd.grad((logps * torch.arange(70.0)).sum(), (hidden, head.weight))
        return logps, *grads

    whole = run()
    monkeypatch.setattr(logprobs, "SLICE_ENTRIES", 1)
    monkeypatch.setattr(logprobs, "KEPT_ENTRIES", 40 * 33)
    for a, b in zip(whole, run(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kept", "again"), [(0, 3), (20, 3), (39, 3), (40, 2), (69, 1), (70, 0)], ids=lambda n: str(n)
)
def test_no_step_holds_more_logits_than_its_bound(kept: int, again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head never sees more than a slice, forward or backward. Of four slices of 20, 20, 20 and 10 tokens those
    within `kept` tokens are computed once (the first always, since one must be held), the others twice."""
    monkeypatch.setattr(logprobs, "SLICE_ENTRIES", 20 * 33)
    monkeypatch.setattr(logprobs, "KEPT_ENTRIES", kept * 33)
    seen: list[int] = []
    head = torch.nn.Linear(8, 33)

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape[0])
        return head(hidden)

    logps, *_ = token_logps(counted, torch.randn(70, 8, requires_grad=True), torch.randint(0, 33, (70,)), 33)
    logps.sum().backward()
    assert max(seen) == 20
    assert len(seen) == 4 + again


@pytest.mark.parametrize(
    "slices", [(2**24, 2**25), (1, 1), (20 * 33, 40 * 33)], ids=["one", "one kept", "two kept"]
)
@pytest.mark.parametrize("frozen", ["nothing", "matrix", "hidden"])
def test_a_head_that_is_one_matrix_gives_the_same(
    frozen: str, slices: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of log-probabilities, entropy and stop tokens at temperatures, of 70 tokens."""
    torch.manual_seed(0)
    monkeypatch.setattr(logprobs, "SLICE_ENTRIES", slices[0])
    monkeypatch.setattr(logprobs, "KEPT_ENTRIES", slices[1])
    head = torch.nn.Linear(8, 33, bias=False)
    hidden, target = torch.randn(70, 8), torch.randint(0, 33, (70,))
    trained = {"hidden": hidden, "matrix": head.weight}
    for name, tensor in trained.items():
        tensor.requires_grad_(name != frozen)
    wanted = [tensor for name, tensor in trained.items() if name != frozen]
    request = StatisticsRequest(True, torch.tensor([3, 9]), 0.5 + torch.rand(70))

    def run(matrix: torch.Tensor | None) -> list[torch.Tensor]:
        found = token_logps(head, hidden, target, 33, request, matrix)
        assert found.stop_logps is not None
        assert found.entropy is not None
        assert not found.entropy.requires_grad
        total = ((found.logps + found.stop_logps * 2) * torch.arange(70.0)).sum()
        return [found.logps, found.entropy, found.stop_logps, *torch.autograd.grad(total, wanted)]

    for a, b in zip(run(None), run(head.weight), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4)


def test_everything_else_by_hand() -> None:
    """p = (1/8, 2/8, 5/8), reference q = (1/2, 1/4, 1/4). Stops {0, 2}: 6/8. KL = Σ p ln(p/q).

    At temperature 2 the logits halve: p ∝ (1, √2, √5).
    """
    p, q = torch.tensor([1 / 8, 2 / 8, 5 / 8]), torch.tensor([1 / 2, 1 / 4, 1 / 4])
    request = StatisticsRequest(stops=torch.tensor([0, 2]), reference=(lambda x: x, q.log()[None]))
    found = token_logps(lambda x: x + 7.0, p.log()[None], torch.tensor([1]), 3, request)
    assert found.entropy is None
    assert found.stop_logps is not None
    assert found.kl is not None
    assert found.stop_logps.item() == pytest.approx(math.log(6 / 8))
    assert found.kl.item() == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    warm = token_logps(
        lambda x: x, p.log()[None], torch.tensor([1]), 3, StatisticsRequest(temperature=torch.tensor([2.0]))
    )
    assert warm.logps.exp().item() == pytest.approx(math.sqrt(2) / (1 + math.sqrt(2) + math.sqrt(5)))


def test_slices_change_nothing_else_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop log-probabilities, exact KL and temperatures, with gradients, in slices of 16."""
    torch.manual_seed(0)
    hidden, target = torch.randn(70, 8, requires_grad=True), torch.randint(0, 33, (70,))
    head, other = torch.nn.Linear(8, 33), torch.nn.Linear(6, 33)
    request = StatisticsRequest(True, torch.tensor([3, 9]), 0.5 + torch.rand(70), (other, torch.randn(70, 6)))

    def run() -> list[torch.Tensor]:
        found = token_logps(head, hidden, target, 33, request)
        assert found.stop_logps is not None
        assert found.kl is not None
        assert found.entropy is not None
        weights = torch.arange(70.0)
        total = ((found.logps + found.stop_logps * 2 + found.kl * 3) * weights).sum()
        return [*found[:4], *torch.autograd.grad(total, (hidden, head.weight))]  # type: ignore[list-item]

    whole = run()
    monkeypatch.setattr(logprobs, "SLICE_ENTRIES", 1)
    monkeypatch.setattr(logprobs, "KEPT_ENTRIES", 40 * 33)
    for a, b in zip(whole, run(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4)
    assert all(p.grad is None for p in other.parameters()), "the reference is frozen"
