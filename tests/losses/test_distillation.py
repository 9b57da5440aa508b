"""The divergence of distillation: hand-worked, at its ends, by enumeration of a tabular policy, and against
TRL's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import tabular
from trimtab.losses.distillation import generalised_jsd


def log(*shares: float) -> torch.Tensor:
    return torch.tensor([shares], dtype=torch.float64).log()


STUDENT, TEACHER = log(1 / 4, 3 / 4), log(1 / 2, 1 / 2)
FORWARD = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
REVERSE = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.0, FORWARD),
        (1.0, REVERSE),
        # The mixture is (3/8, 5/8).
        (
            0.5,
            0.5 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5) + 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)),
        ),
    ],
)
def test_by_hand(beta: float, expected: float) -> None:
    assert float(generalised_jsd(STUDENT, TEACHER, beta)) == pytest.approx(expected, rel=1e-12)


def test_the_ends_are_the_limits_of_the_formula() -> None:
    """D(β)/β goes to KL(T ‖ S) for β to 0, and D(β)/(1 − β) to KL(S ‖ T) for β to 1."""
    assert float(generalised_jsd(STUDENT, TEACHER, 1e-7)) / 1e-7 == pytest.approx(FORWARD, rel=1e-5)
    assert float(generalised_jsd(STUDENT, TEACHER, 1 - 1e-7)) / 1e-7 == pytest.approx(REVERSE, rel=1e-5)


@given(st.integers(0, 1000), st.floats(0.01, 0.99))
def test_it_is_no_more_than_the_entropy_of_the_choice_and_0_where_both_agree(seed: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.log_softmax(3 * torch.randn(2, 4, 7, generator=generator, dtype=torch.float64), -1)
    values = generalised_jsd(student, teacher, beta)
    choice = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert bool(((values > 0) & (values <= choice + 1e-12)).all())
    assert generalised_jsd(student, student, beta).abs().max() < 1e-12
    swapped = generalised_jsd(teacher, student, 1 - beta)
    assert torch.allclose(values, swapped, atol=1e-12), "student and teacher change places with β and 1 − β"


def places(sequence: tabular.Sequence) -> list[int]:
    return [tabular.PLACE[sequence[:t]] for t in range(len(sequence))]


def divergence_of(
    theta: torch.Tensor, teacher: torch.Tensor, sequence: tabular.Sequence, beta: float
) -> torch.Tensor:
    """Summed over the tokens of one sequence."""
    rows = places(sequence)
    return generalised_jsd(torch.log_softmax(theta[rows], -1), torch.log_softmax(teacher[rows], -1), beta).sum()


def test_reverse_kl_by_token_on_own_samples_is_that_of_whole_sequences() -> None:
    """E over the student's sequences of Σ_t KL(S_t ‖ T_t) = Σ_y S(y) (log S(y) − log T(y))."""
    theta, teacher = tabular.table(0).detach(), tabular.table(1).detach()
    by_token = tabular.expectation(theta, lambda y: divergence_of(theta, teacher, y, 1.0))
    whole = tabular.expectation(
        theta, lambda y: tabular.token_logps(theta, y).sum() - tabular.token_logps(teacher, y).sum()
    )
    assert float(by_token) == pytest.approx(float(whole), rel=1e-12)


def test_its_expected_gradient_is_that_of_each_tokens_log_ratio_as_its_own_cost() -> None:
    """Nothing is differentiated through the sampling: the gradient is a policy gradient in which each token has the
    cost log S − log T of itself alone, and is 0 where student and teacher agree."""
    theta, teacher = tabular.table(0), tabular.table(1).detach()
    shares = [float(tabular.probability(theta.detach(), y)) for y in tabular.SEQUENCES]
    exact = tabular.gradient(
        sum(s * divergence_of(theta, teacher, y, 1.0) for s, y in zip(shares, tabular.SEQUENCES, strict=True)),
        theta,
    )

    def surrogate(y: tabular.Sequence) -> torch.Tensor:
        logps = tabular.token_logps(theta, y)
        return ((logps - tabular.token_logps(teacher, y)).detach() * logps).sum()

    sampled = tabular.gradient(sum(s * surrogate(y) for s, y in zip(shares, tabular.SEQUENCES, strict=True)), theta)
    assert torch.allclose(exact, sampled, atol=1e-12)
    assert exact.norm() > 0.1
    for beta in (0.0, 0.3, 1.0):
        same = tabular.gradient(divergence_of(theta, theta.detach(), tabular.SEQUENCES[-1], beta), theta)
        assert same.abs().max() < 1e-12


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_values_and_gradients_are_trls(beta: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    theirs = gkd.GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=beta, reduction="sum")
    (of_theirs,) = torch.autograd.grad(theirs, student)
    ours = generalised_jsd(torch.log_softmax(student, -1), torch.log_softmax(teacher, -1), beta).sum()
    (of_ours,) = torch.autograd.grad(ours, student)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-9)
    assert torch.allclose(of_ours, of_theirs, atol=1e-10)
