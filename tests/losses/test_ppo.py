"""PPO's rewards by token, advantages and value loss: by hand, by their definitions, and by exact enumeration of the
tabular policy (tests/losses/tabular.py). TRL 1.16 has no PPO to compare with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses import tabular
from losses.tabular import SEQUENCES
from trimtab.losses import policy_gradient as pg
from trimtab.losses import ppo

F64 = torch.float64


def test_token_rewards_by_hand() -> None:
    """β 0.5; log-ratios 0.2, −0.4 | 1.0: −0.1, 0.2 | −0.5, and the scores 3 and −1 at the last tokens."""
    logps = torch.tensor([-1.0, -2.0, -0.5], dtype=F64)
    reference = torch.tensor([-1.2, -1.6, -1.5], dtype=F64)
    found = ppo.token_rewards(torch.tensor([3.0, -1.0]), logps, reference, torch.tensor([2, 1]), 0.5)
    assert found.tolist() == pytest.approx([-0.1, 3.2, -1.5])


def test_gae_by_hand() -> None:
    """γ 0.5, λ 0.5, two completions. The first: r 1, 0, 2, V 0.5, 1, −1.

    δ_3 = 2 + 1 = 3; δ_2 = 0 − 0.5 − 1 = −1.5; δ_1 = 1 + 0.5 − 0.5 = 1. Â_3 = 3; Â_2 = −1.5 + 3/4 = −0.75;
    Â_1 = 1 − 0.75/4 = 0.8125. The second has one token: 4 − 3 = 1, and nothing of its neighbour.
    """
    rewards, values = torch.tensor([1.0, 0, 2, 4]), torch.tensor([0.5, 1, -1, 3])
    found = ppo.gae(rewards, values, torch.tensor([3, 1]), 0.5, 0.5)
    assert found.advantages.tolist() == pytest.approx([0.8125, -0.75, 3, 1])
    assert found.returns.tolist() == pytest.approx([1.3125, 0.25, 2, 4])


def numbers(n: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-3, 3), min_size=n, max_size=n)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    gamma=st.floats(0.1, 1),
    lam=st.floats(0, 1),
    data=st.data(),
)
def test_gae_is_its_definition(lengths: list[int], gamma: float, lam: float, data: st.DataObject) -> None:
    """Σ_l (γλ)^l δ_{t+l}, one completion at a time, in two loops."""
    rewards, values = data.draw(numbers(sum(lengths))), data.draw(numbers(sum(lengths)))
    wanted, start = [], 0
    for n in lengths:
        r, v = rewards[start : start + n], [*values[start : start + n], 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        wanted += [sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]
        start += n
    given_ = torch.tensor(rewards, dtype=F64), torch.tensor(values, dtype=F64), torch.tensor(lengths)
    found = ppo.gae(*given_, gamma, lam)
    assert torch.allclose(found.advantages, torch.tensor(wanted, dtype=F64), atol=1e-12)
    assert torch.allclose(found.returns - found.advantages, given_[1], atol=1e-12)


def test_gae_refuses_lengths_of_other_tokens() -> None:
    with pytest.raises(ValueError, match="add up to M"):
        ppo.gae(torch.zeros(3), torch.zeros(3), torch.tensor([2, 2]), 1.0, 1.0)


def test_whitening_by_hand() -> None:
    """1, 2, 6: mean 3, variance 7 with M − 1. Equal values, and a lone one, become 0."""
    assert ppo.whiten(torch.tensor([1.0, 2, 6])).tolist() == pytest.approx([x / 7**0.5 for x in (-2, -1, 3)])
    assert ppo.whiten(torch.tensor([0.5, 0.5])).tolist() == [0, 0]
    assert ppo.whiten(torch.tensor([4.0])).tolist() == [0]


def test_value_loss_by_hand() -> None:
    """ε 0.2, V_old 0. Target 1: V 0.1 is free, ½ 0.81, gradient −0.9; V 0.5 is held at 0.2, ½ 0.64, none.

    Target −1: V 0.5 has gone the wrong way, and is free to come back: ½ 2.25, gradient 1.5.
    """
    values = torch.tensor([0.1, 0.5, 0.5], dtype=F64, requires_grad=True)
    old, returns = torch.zeros(3, dtype=F64), torch.tensor([1.0, 1, -1], dtype=F64)
    found = ppo.value_loss(values, old, returns, 0.2)
    assert found.losses.tolist() == pytest.approx([0.405, 0.32, 1.125])
    assert found.clipped.tolist() == [False, True, False]
    (grad,) = torch.autograd.grad(found.losses.sum(), values)
    assert grad.tolist() == pytest.approx([-0.9, 0, 1.5])
    free = ppo.value_loss(values, old, returns, None)
    assert free.losses.tolist() == pytest.approx([0.405, 0.125, 1.125])
    assert not free.clipped.any()


def test_explained_variance_by_hand() -> None:
    """Returns 0, 2 (variance 1); errors 0, 1 (variance 1/4). A constant explains nothing; equal returns: None."""
    returns = torch.tensor([0.0, 2])
    assert ppo.explained_variance(torch.tensor([0.0, 1]), returns) == pytest.approx(0.75)
    assert ppo.explained_variance(torch.tensor([5.0, 5]), returns) == pytest.approx(0)
    assert ppo.explained_variance(torch.tensor([5.0, 5]), torch.ones(2)) is None


# ---- exact enumeration: the gradient of E R − β KL(π‖π_ref)

THETA, REFERENCE = tabular.table(0), tabular.table(1).detach()
WEIGHTS = [tabular.probability(THETA, y).item() for y in SEQUENCES]
SCORE = {y: float(len(set(y)) + 0.3 * y[0] - 0.2 * len(y)) for y in SEQUENCES}
BETA = 0.3


def log_ratio(y: tabular.Sequence) -> Tensor:
    return (tabular.token_logps(THETA, y) - tabular.token_logps(REFERENCE, y)).detach()


TRUE = tabular.gradient(
    tabular.expectation(
        THETA,
        lambda y: SCORE[y] - BETA * (tabular.token_logps(THETA, y) - tabular.token_logps(REFERENCE, y)).sum(),
    ),
    THETA,
)


def exact_value(prefix: tabular.Sequence) -> float:
    """Of the rewards that are still to come behind a prefix: E[R − β Σ_{u ≥ t} log-ratio_u | prefix]."""
    t, total, mass = len(prefix), 0.0, 0.0
    for y, weight in zip(SEQUENCES, WEIGHTS, strict=True):
        if y[:t] == prefix:
            mass += weight
            total += weight * (SCORE[y] - BETA * float(log_ratio(y)[t:].sum()))
    return total / mass


def guess(prefix: tabular.Sequence) -> float:
    return 0.7 * len(prefix) - 1.1 * sum(prefix) + 0.4


def advantages(y: tabular.Sequence, value: Callable[[tabular.Sequence], float], lam: float) -> ppo.Advantages:
    length = torch.tensor([len(y)])
    logps, reference = tabular.token_logps(THETA, y).detach(), tabular.token_logps(REFERENCE, y)
    rewards = ppo.token_rewards(torch.tensor([SCORE[y]], dtype=F64), logps, reference, length, BETA)
    values = torch.tensor([value(y[:t]) for t in range(len(y))], dtype=F64)
    return ppo.gae(rewards, values, length, 1.0, lam)


def mean_and_variance(value: Callable[[tabular.Sequence], float], lam: float) -> tuple[Tensor, float]:
    """Of the gradient of PPO's policy loss at π = π_old, over one completion."""

    def loss(ys: tuple[tabular.Sequence, ...]) -> Tensor:
        logps, each = tabular.token_logps(THETA, ys[0]), torch.arange(len(ys[0]))
        found = advantages(ys[0], value, lam).advantages
        return pg.policy_gradient(logps, logps.detach(), found, each, clip_low=0.2, clip_high=0.2).losses.sum()

    return tabular.mean_gradient(THETA, SEQUENCES, WEIGHTS, 1, loss)


UNBIASED = [("nothing", 1.0), ("a guess", 1.0), ("exact", 1.0), ("exact", 0.5), ("exact", 0.0)]
VALUES = {"nothing": lambda prefix: 0.0, "a guess": guess, "exact": exact_value}


@pytest.mark.parametrize(("value", "lam"), UNBIASED)
def test_unbiased_at_lambda_1_or_with_an_exact_value(value: str, lam: float) -> None:
    """λ = 1 and no value is REINFORCE with reward to go; the KL by token is that of whole sequences."""
    assert torch.allclose(mean_and_variance(VALUES[value], lam)[0], -TRUE, atol=1e-12)


def test_a_wrong_value_biases_lambda_below_1() -> None:
    assert (mean_and_variance(guess, 0.5)[0] + TRUE).norm() > 0.1 * TRUE.norm()


def test_an_exact_value_has_less_variance_and_less_still_at_a_smaller_lambda() -> None:
    kinds = [("nothing", 1.0), ("exact", 1.0), ("exact", 0.5)]
    nothing, one, half = (mean_and_variance(VALUES[value], lam)[1] for value, lam in kinds)
    assert half < one < nothing


@pytest.mark.parametrize("lam", [1.0, 0.6])
def test_the_exact_value_is_where_the_value_loss_rests(lam: float) -> None:
    """The mean over completions of d loss / d V(prefix) is 0 for every prefix, at V = V^π and nowhere near."""

    def slopes(shift: float) -> dict[tabular.Sequence, float]:
        found: dict[tabular.Sequence, float] = {}
        for y, weight in zip(SEQUENCES, WEIGHTS, strict=True):
            returns = advantages(y, exact_value, lam).returns
            values = torch.tensor([exact_value(y[:t]) + shift for t in range(len(y))], dtype=F64).requires_grad_()
            losses = ppo.value_loss(values, values.detach(), returns, None).losses
            (grad,) = torch.autograd.grad(losses.sum(), values)
            for t, slope in enumerate(grad.tolist()):
                found[y[:t]] = found.get(y[:t], 0.0) + weight * slope
        return found

    assert max(map(abs, slopes(0.0).values())) < 1e-12
    assert min(slopes(0.1).values()) > 1e-4
