"""The length penalty's estimators against exact enumeration (tests/losses/tabular.py), in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losses import tabular
from losses.tabular import CAP, PATHS, SEQUENCES
from trimtab.losses.length_penalty import literal, pad_rows, penalty, score_function, stop_hazard

TARGET = 1


def f(sequence: tabular.Sequence) -> float:
    return float(max(0, len(sequence) - TARGET) ** 2)


def exact(theta: Tensor) -> Tensor:
    return tabular.gradient(tabular.expectation(theta, f), theta)


def hazard(theta: Tensor, paths: tuple[tabular.Sequence, ...], pathwise_only: bool = False) -> Tensor:
    logps = torch.stack([tabular.token_logps(theta, p) for p in paths])
    stops = torch.stack([tabular.stop_logps(theta, p) for p in paths])
    mask = torch.ones_like(logps, dtype=torch.bool)
    targets, ends = torch.full((len(paths),), TARGET), torch.full((len(paths),), CAP)
    return stop_hazard(logps, stops, mask, targets, ends, len(paths), pathwise_only).mean()


def sampled(theta: Tensor, sequences: tuple[tabular.Sequence, ...]) -> Tensor:
    logps = torch.stack([tabular.token_logps(theta, y).sum() for y in sequences])
    lengths = torch.tensor([len(y) for y in sequences])
    return score_function(logps, lengths, torch.full_like(lengths, TARGET), len(sequences)).mean()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("k", [1, 2])
def test_stop_hazard_is_unbiased(seed: int, k: int) -> None:
    """Its mean over all (pairs of) content paths is the gradient of the expected penalty."""
    theta = tabular.table(seed)
    weights = [tabular.path_probability(theta, p) for p in PATHS]
    assert sum(weights) == pytest.approx(1)
    mean, _ = tabular.mean_gradient(theta, PATHS, weights, k, lambda paths: hazard(theta, paths))
    assert torch.allclose(mean, exact(theta), atol=1e-12)


def test_its_value_is_the_expected_penalty() -> None:
    theta = tabular.table(0)
    value = sum(tabular.path_probability(theta, p) * float(hazard(theta, (p,))) for p in PATHS)
    assert value == pytest.approx(float(tabular.expectation(theta, f)))


def test_without_the_paths_score_function_it_is_biased() -> None:
    """The stopping probabilities depend on what was written: that part of the gradient goes missing."""
    theta = tabular.table(0)
    weights = [tabular.path_probability(theta, p) for p in PATHS]
    mean, _ = tabular.mean_gradient(theta, PATHS, weights, 1, lambda paths: hazard(theta, paths, True))
    assert (mean - exact(theta)).norm() > 0.05 * exact(theta).norm()


def test_score_function_is_unbiased_and_noisier() -> None:
    """Two samples against one path: the path's variance is the smaller."""
    theta = tabular.table(0)
    weights = [float(tabular.probability(theta, y)) for y in SEQUENCES]
    assert sum(weights) == pytest.approx(1)
    mean, variance = tabular.mean_gradient(theta, SEQUENCES, weights, 2, lambda ys: sampled(theta, ys))
    assert torch.allclose(mean, exact(theta), atol=1e-12)
    weights = [tabular.path_probability(theta, p) for p in PATHS]
    _, path_variance = tabular.mean_gradient(theta, PATHS, weights, 1, lambda paths: hazard(theta, paths))
    assert path_variance < variance


def test_the_literal_reading_has_no_gradient() -> None:
    theta = tabular.table(0)
    sequences = SEQUENCES[:4]
    logps = torch.stack([tabular.token_logps(theta, y).sum() for y in sequences])
    lengths = torch.tensor([len(y) for y in sequences])
    values = literal(logps, lengths, torch.full_like(lengths, TARGET))
    assert values.tolist() == [f(y) for y in sequences]
    assert tabular.gradient(values.sum(), theta).abs().max() == 0


def test_by_hand() -> None:
    """h = (1/2, 1/4), path of 2, target 0, then the tail has length 3: ½·1 + ½·¼·4 + ½·¾·9 = 4.375.

    Gradient through h_1, pathwise: 1 − (¼·4 + ¾·9) = −6.75; as log h_1: ½ of it. h_2: ½ (4 − 9) = −2.5; ¼ of it.
    """
    stops = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log().requires_grad_()
    logps = torch.zeros(1, 2, dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = stop_hazard(logps, stops, mask, torch.tensor([0]), torch.tensor([3]), pathwise_only=True)
    assert found.item() == pytest.approx(4.375)
    (grad,) = torch.autograd.grad(found.sum(), stops)
    assert grad[0].tolist() == pytest.approx([-6.75 / 2, -2.5 / 4])


def test_padding_changes_nothing() -> None:
    """A path of 2 beside one of 4 has the value and gradient that it has alone."""
    torch.manual_seed(0)
    logps, stops = -torch.rand(6).double() - 1, (-torch.rand(6).double() - 1).requires_grad_()

    def run(rows: list[int], lo: int, hi: int) -> tuple[Tensor, Tensor]:
        a, mask = pad_rows(logps[lo:hi], rows)
        b, _ = pad_rows(stops[lo:hi], rows)
        found = stop_hazard(a, b, mask, torch.tensor([1] * len(rows)), torch.tensor([n + 1 for n in rows]))
        (grad,) = torch.autograd.grad(found.sum(), stops)
        return found, grad

    both, grad = run([2, 4], 0, 6)
    first, first_grad = run([2], 0, 2)
    second, second_grad = run([4], 2, 6)
    assert torch.allclose(both, torch.cat([first, second]))
    assert torch.allclose(grad, first_grad + second_grad)


def test_certain_stops_stay_finite() -> None:
    """h = 1 to the last bit: a gradient, and no NaN."""
    stops = torch.tensor([[0.0, -1.0]]).requires_grad_()
    logps = torch.tensor([[-40.0, -1.0]]).requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = stop_hazard(logps, stops, mask, torch.tensor([0]), torch.tensor([3]))
    assert found.item() == pytest.approx(1.0)
    found.sum().backward()
    assert stops.grad is not None
    assert logps.grad is not None
    assert torch.isfinite(stops.grad).all()
    assert torch.isfinite(logps.grad).all()


def test_shorter_than_the_target_costs_nothing() -> None:
    assert penalty(torch.tensor([1, 2, 5]), torch.tensor([2, 2, 2])).tolist() == [0, 0, 9]
    with pytest.raises(ValueError, match="at least two samples"):
        score_function(torch.zeros(3), torch.ones(3), torch.ones(3), 1)
