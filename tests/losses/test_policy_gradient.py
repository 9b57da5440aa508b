"""Policy gradients and their KL terms against exact enumeration (tests/losses/tabular.py), in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from losses import tabular
from losses.tabular import SEQUENCES
from trimtab.advantages import ADVANTAGES, group_advantages
from trimtab.losses import policy_gradient as pg

THETA, REFERENCE = tabular.table(0), tabular.table(1).detach()
WEIGHTS = [tabular.probability(THETA, y).item() for y in SEQUENCES]
REWARD = {y: float(len(set(y)) + 0.3 * y[0] - 0.2 * len(y)) for y in SEQUENCES}


def packed(sequences: tuple[tabular.Sequence, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logps [M] with gradient, ref_logps [M], owner [M], lengths [C]"""
    logps = torch.cat([tabular.token_logps(THETA, y) for y in sequences])
    reference = torch.cat([tabular.token_logps(REFERENCE, y) for y in sequences])
    lengths = torch.tensor([len(y) for y in sequences])
    return logps, reference, torch.repeat_interleave(torch.arange(len(sequences)), lengths), lengths


def reinforce(sequences: tuple[tabular.Sequence, ...], rewards: list[float], objective: str) -> Tensor:
    """The loss of one group, averaged over its completions."""
    logps, _, owner, _ = packed(sequences)
    advantages = torch.tensor(group_advantages(rewards, objective).values, dtype=torch.float64)
    return pg.policy_gradient(logps, logps.detach(), advantages, owner).losses.mean()


def mean_over_groups(k: int, loss: Callable[[tuple[tabular.Sequence, ...]], Tensor]) -> Tensor:
    return tabular.mean_gradient(THETA, SEQUENCES, WEIGHTS, k, loss)[0]


EXACT_REWARD = tabular.gradient(tabular.expectation(THETA, lambda y: REWARD[y]), THETA)
EXACT_KL = tabular.gradient(
    tabular.expectation(THETA, lambda y: (tabular.token_logps(THETA, y) - tabular.token_logps(REFERENCE, y)).sum()),
    THETA,
)


def rewarded(objective: str, k: int) -> Tensor:
    return mean_over_groups(k, lambda ys: reinforce(ys, [REWARD[y] for y in ys], objective))


@pytest.mark.parametrize("k", [2, 3])
def test_leave_one_out_is_unbiased(k: int) -> None:
    """Its mean over all groups is minus the gradient of the expected reward."""
    assert torch.allclose(rewarded("leave_one_out", k), -EXACT_REWARD, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_mean_centred_is_k_minus_1_over_k_of_it(k: int) -> None:
    assert torch.allclose(rewarded("mean_centred", k), -EXACT_REWARD * (k - 1) / k, atol=1e-12)


def test_group_normalised_is_biased() -> None:
    """No multiple of the true gradient: the angle between them is 18 degrees here (docs/methods/grpo.md)."""
    found = rewarded("group_normalised", 3)
    cosine = float((found * -EXACT_REWARD).sum() / found.norm() / EXACT_REWARD.norm())
    assert math.degrees(math.acos(cosine)) > 15


def test_kl_in_the_reward_is_unbiased() -> None:
    """k1, subtracted from a reward of 0 before the baseline: the mean is the gradient of KL(π‖π_ref)."""

    def loss(ys: tuple[tabular.Sequence, ...]) -> Tensor:
        logps, reference, owner, _ = packed(ys)
        return reinforce(ys, (-pg.kl_k1(logps, reference, owner, len(ys))).tolist(), "leave_one_out")

    assert torch.allclose(mean_over_groups(2, loss), EXACT_KL, atol=1e-12)


def kl_loss(name: str) -> Callable[[tuple[tabular.Sequence, ...]], Tensor]:
    def loss(ys: tuple[tabular.Sequence, ...]) -> Tensor:
        logps, reference, owner, lengths = packed(ys)
        if name == "exact":
            kl = torch.cat([tabular.kl_by_token(THETA, REFERENCE, y) for y in ys])
            return pg.kl_exact(kl, logps, owner, lengths).mean()
        return {"k2": pg.kl_k2, "k3": pg.kl_k3}[name](logps, reference, owner, len(ys)).mean()

    return loss


@pytest.mark.parametrize("name", ["k2", "exact"])
def test_k2_and_the_corrected_exact_kl_are_unbiased(name: str) -> None:
    assert torch.allclose(mean_over_groups(1, kl_loss(name)), EXACT_KL, atol=1e-12)


def test_the_exact_kl_needs_its_prefixes() -> None:
    """Σ KL_t alone misses that the policy chooses the prefixes."""

    def loss(ys: tuple[tabular.Sequence, ...]) -> Tensor:
        return torch.cat([tabular.kl_by_token(THETA, REFERENCE, y) for y in ys]).sum()

    assert (mean_over_groups(1, loss) - EXACT_KL).norm() > 0.05 * EXACT_KL.norm()


def test_k3_is_biased() -> None:
    assert (mean_over_groups(1, kl_loss("k3")) - EXACT_KL).norm() > 0.2 * EXACT_KL.norm()


def test_kl_terms_by_hand() -> None:
    """r = (1, −2) and (3): k1 −1 and 3, no gradient; k2 ½ and 4.5, of slope Σ r; k3 e⁻¹ + e² − 3 and e⁻³ + 2."""
    logps = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64).requires_grad_()
    reference, owner = torch.zeros(3, dtype=torch.float64), torch.tensor([0, 0, 1])
    k1, k2, k3 = (kl(logps, reference, owner, 2) for kl in (pg.kl_k1, pg.kl_k2, pg.kl_k3))
    assert k1.tolist() == [-1, 3]
    assert not k1.requires_grad
    assert k2.tolist() == [0.5, 4.5]
    assert torch.autograd.grad(k2.sum(), logps)[0].tolist() == [-1, -1, 3]
    assert k3.tolist() == pytest.approx([math.exp(-1) + math.exp(2) - 3, math.exp(-3) + 2])


def test_values_of_kl_terms_agree_in_the_mean() -> None:
    """k1, k3 and exact have the same mean value: KL(π‖π_ref)."""
    true = float(tabular.expectation(THETA, lambda y: tabular.kl_by_token(THETA, REFERENCE, y).sum()))
    for name in ("k3", "exact"):
        assert sum(
            w * float(kl_loss(name)((y,))) for w, y in zip(WEIGHTS, SEQUENCES, strict=True)
        ) == pytest.approx(true)


# ---- the clipped ratio


def test_clipping_by_hand() -> None:
    """ρ = 1.5 with ε = 0.2. A = 1: min(1.5, 1.2) = 1.2, no gradient. A = −1: min(−1.5, −1.2) = −1.5, gradient −1.5.

    ρ = 0.5: A = 1 gives 0.5 with gradient; A = −1 gives min(−0.5, −0.8) = −0.8 without.
    """
    logps = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    found = pg.policy_gradient(
        logps, torch.zeros_like(logps).detach(), advantages, torch.arange(4), clip_low=0.2, clip_high=0.2
    )
    assert found.losses.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    (grad,) = torch.autograd.grad(found.losses.sum(), logps)
    assert grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])
    assert found.clipped_high.tolist() == [True, False, False, False]
    assert found.clipped_low.tolist() == [False, False, False, True]


def test_each_side_has_its_own_clip() -> None:
    """ε 0.1 below, 0.4 above. ρ = 1.3, A = 1 is inside: 1.3. ρ = 1.5: 1.4. ρ = 0.8, A = −1: −0.9, cut below."""
    logps = torch.tensor([1.3, 1.5, 0.8], dtype=torch.float64).log()
    advantages = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    found = pg.policy_gradient(
        logps, torch.zeros_like(logps), advantages, torch.arange(3), clip_low=0.1, clip_high=0.4
    )
    assert found.losses.tolist() == pytest.approx([-1.3, -1.4, 0.9])
    assert found.clipped_high.tolist() == [False, True, False]
    assert found.clipped_low.tolist() == [False, False, True]


def test_importance_weights_by_hand() -> None:
    """π/μ of ½ over ¼ is 2, of ¼ over ½ is ½, and of 1 over ⅛ is 8, cut at 3; constants, not functions of π."""
    policy = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64).log().requires_grad_()
    sampler = torch.tensor([0.25, 0.5, 0.125], dtype=torch.float64).log()
    found = pg.importance_weights(policy, sampler, cap=3.0)
    assert found.tolist() == pytest.approx([2, 0.5, 3])
    assert not found.requires_grad


def test_on_policy_both_ratios_have_the_same_gradient() -> None:
    logps, _, owner, _ = packed(((0, 1, 2), (2,), (1, 2)))
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    grads = [
        tabular.gradient(
            pg.policy_gradient(logps, logps.detach(), advantages, owner, ratio=ratio).losses.sum(), THETA
        )
        for ratio in ("token", "sequence")
        if (logps := packed(((0, 1, 2), (2,), (1, 2)))[0]) is not None
    ]
    assert torch.allclose(grads[0], grads[1], atol=1e-14)


def test_truncated_weights_are_biased() -> None:
    """Samples of π_T at T = 0.5, per-token weights cut at 2: not the gradient; whole-sequence weights would be."""
    sampler = (THETA / 0.5).detach()
    draws = [float(tabular.probability(sampler, y)) for y in SEQUENCES]

    def mean(weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        def loss(ys: tuple[tabular.Sequence, ...]) -> Tensor:
            logps = tabular.token_logps(THETA, ys[0])
            weights = weigh(logps, tabular.token_logps(sampler, ys[0]))
            owner = torch.zeros(len(ys[0]), dtype=torch.long)
            advantages = torch.tensor([REWARD[ys[0]]], dtype=torch.float64)
            return pg.policy_gradient(logps, logps.detach(), advantages, owner, weights_M=weights).losses.sum()

        return tabular.mean_gradient(THETA, SEQUENCES, draws, 1, loss)[0]

    truncated = mean(lambda a, b: pg.importance_weights(a, b, cap=2.0))
    assert (truncated + EXACT_REWARD).norm() > 0.05 * EXACT_REWARD.norm()
    whole = mean(lambda a, b: (a - b).detach().sum().exp().expand(len(a)))
    assert torch.allclose(whole, -EXACT_REWARD, atol=1e-12)


def test_effective_sample_size_by_hand() -> None:
    """Weights (1, 1, 2): 16 / (3 · 6) = 8/9. Equal distributions: 1."""
    policy = torch.tensor([0.0, 0.0, math.log(2.0)])
    owner = torch.arange(3)
    assert pg.effective_sample_size(policy, torch.zeros(3), owner, 3) == pytest.approx(8 / 9)
    assert pg.effective_sample_size(policy, policy, owner, 3) == pytest.approx(1)


def test_normalisers() -> None:
    """Two completions of 1 and 3 tokens, cap 10; per-token terms 1: sums 1 and 3."""
    lengths, owner = torch.tensor([1.0, 3.0]), torch.tensor([0, 1, 1, 1])
    weights = pg.weigh_tokens(lengths, owner, "sequences")
    assert weights is not None
    assert weights.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert pg.weigh_tokens(lengths, owner, "tokens") is None
    expected = {"sum": 2, "sequences": 2, "tokens": 4, "constant": 20}
    assert {n: pg.normaliser(n, 2, 4, 10) for n in expected} == expected  # type: ignore[arg-type]


def test_future_sums_stay_within_their_completion() -> None:
    found = pg.future_sums(torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3, 2]))
    assert found.tolist() == [5, 3, 0, 5, 0]


def test_k3_does_not_overflow() -> None:
    logps = torch.zeros(1).requires_grad_()
    found = pg.kl_k3(logps, torch.tensor([300.0]), torch.tensor([0]), 1)
    assert torch.isfinite(found).all()


# ---- advantages


def test_advantages_by_hand() -> None:
    """Rewards 1, 2, 6: mean 3, leave-one-out K/(K−1) of the centred, std √7."""
    rewards = [1.0, 2.0, 6.0]
    found = {name: list(group_advantages(rewards, name).values) for name in ADVANTAGES}
    assert found["leave_one_out"] == pytest.approx([-3, -1.5, 4.5])
    assert found["mean_centred"] == pytest.approx([-2, -1, 3])
    assert found["group_normalised"] == pytest.approx([x / (math.sqrt(7) + 1e-4) for x in (-2, -1, 3)])
    assert found["ranking"] == pytest.approx([-1, 0, 1])
    assert found["best_worst"] == pytest.approx([-1, 0, 1])


def test_ties_share() -> None:
    assert group_advantages([1.0, 1.0, 0.0], "ranking").values == pytest.approx((0.5, 0.5, -1))
    assert group_advantages([1.0, 1.0, 0.0], "best_worst").values == pytest.approx((0.5, 0.5, -1))


def test_a_missing_reward_leaves_the_baseline() -> None:
    found = group_advantages([4.0, None, 2.0], "leave_one_out")
    assert found.values == (2.0, None, -2.0)
    assert not found.dropped


def test_fewer_than_two_rewards_drop_the_group() -> None:
    assert group_advantages([4.0, None], "leave_one_out").dropped
    with pytest.raises(ValueError, match="at least two"):
        ADVANTAGES["leave_one_out"](torch.tensor([1.0]))


@pytest.mark.parametrize("objective", list(ADVANTAGES))
def test_equal_rewards_give_exact_zeros(objective: str) -> None:
    """0.1 three times: its mean is not 0.1 to the last bit."""
    found = group_advantages([0.1, 0.1, 0.1], objective)
    assert found.equal
    assert found.values == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="None"):
        group_advantages([1.0, bad], "leave_one_out")
