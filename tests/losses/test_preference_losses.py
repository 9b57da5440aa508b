"""Every preference loss against numbers worked out by hand, and the identities between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.losses.completions import imitation, kto, ranking
from trimtab.losses.table import LOSSES, call, check_settings, level_of, needs_reference, parameters

CASE: dict[str, Tensor] = {
    name: torch.tensor([value], dtype=torch.float64)
    for name, value in {
        "chosen_logps": -6.0, "rejected_logps": -9.0, "ref_chosen_logps": -8.0, "ref_rejected_logps": -7.0,
        "chosen_lengths": 4.0, "rejected_lengths": 2.0, "chosen_logps_head": -2.0, "rejected_logps_head": -9.0,
        "ref_chosen_logps_head": -5.0, "ref_rejected_logps_head": -7.0,
        "chosen_win_rates": 0.9, "rejected_win_rates": 0.3,
        "failing_logps": -5.0, "keeping_logps": -7.0, "ref_failing_logps": -6.0, "ref_keeping_logps": -7.0,
    }.items()
}  # fmt: skip
"""ρ_w = −6 + 8 = 2 and ρ_l = −9 + 7 = −2, so that ρ_w − ρ_l = 4; 4 and 2 tokens. Under length instructions y_w has
ρ = −5 + 6 = 1, and y_l ρ = −7 + 7 = 0."""


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def loss_of(name: str, **settings: float) -> float:
    return float(call(name, CASE, settings).losses)


def test_dpo_with_label_smoothing() -> None:
    """β = ½: margin 2. −0.9 log σ(2) − 0.1 log σ(−2)."""
    expected = -0.9 * log_sigmoid(2) - 0.1 * log_sigmoid(-2)
    assert loss_of("dpo", beta=0.5, label_smoothing=0.1) == pytest.approx(expected)


def test_robust() -> None:
    """Margin 2, ε = 0.2: [−0.8 log σ(2) + 0.2 log σ(−2)] / 0.6."""
    expected = (-0.8 * log_sigmoid(2) + 0.2 * log_sigmoid(-2)) / 0.6
    assert loss_of("robust", beta=0.5, label_smoothing=0.2) == pytest.approx(expected)


@settings(deadline=None)
@given(margin=st.floats(-5, 5), rate=st.floats(0, 0.45))
def test_robust_is_unbiased_for_dpo_under_flipped_labels(margin: float, rate: float) -> None:
    """(1 − ε) robust(m) + ε robust(−m) = −log σ(m): what a label flipped at rate ε shows on average."""

    def robust(m: float) -> float:
        zero = torch.zeros(1, dtype=torch.float64)
        inputs = dict.fromkeys(CASE, zero) | {"chosen_logps": zero + m}
        return float(call("robust", inputs, {"beta": 1.0, "label_smoothing": rate}).losses)

    assert (1 - rate) * robust(margin) + rate * robust(-margin) == pytest.approx(-log_sigmoid(margin), abs=1e-9)


def test_hinge() -> None:
    """1 − 0.1 · 4 = 0.6; at β = ½ the margin of 2 is above 1, and the loss 0."""
    assert loss_of("hinge", beta=0.1) == pytest.approx(0.6)
    assert loss_of("hinge", beta=0.5) == 0


def test_dpop() -> None:
    """ρ_w = 2 has not fallen: DPO, margin ½ · 4. Fallen to −1, at λ = 3: ½ [−1 + 2 − 3 · 1] = −1."""
    assert loss_of("dpop", beta=0.5, penalty=3.0) == pytest.approx(-log_sigmoid(2))
    fallen = CASE | {"chosen_logps": CASE["ref_chosen_logps"] - 1}
    assert float(call("dpop", fallen, {"beta": 0.5, "penalty": 3.0}).losses) == pytest.approx(-log_sigmoid(-1))


def test_ipo() -> None:
    """β = 0.25: target 2. Summed (4 − 2)² = 4; by token 2/4 − (−2)/2 = 1.5: (1.5 − 2)² = 0.25."""
    assert loss_of("ipo", beta=0.25) == pytest.approx(4)
    assert loss_of("ipo_averaged", beta=0.25) == pytest.approx(0.25)


def test_sppo_and_cal_dpo() -> None:
    """β = 0.5: targets ±1. (2 − 1)² + (−2 + 1)² = 2; Cal-DPO: −log σ(4) + 2, with c = ½ + 1."""
    assert loss_of("sppo", beta=0.5) == pytest.approx(2)
    assert loss_of("cal_dpo", beta=0.5) == pytest.approx(2 - log_sigmoid(4))
    assert loss_of("cal_dpo", beta=0.5, calibration=0.5) == pytest.approx(1 - log_sigmoid(4))


def test_sppo_of_estimated_win_rates() -> None:
    """β = 0.5: targets (0.9 − ½)/β = 0.8 and (0.3 − ½)/β = −0.4: (2 − 0.8)² + (−2 + 0.4)² = 1.44 + 2.56. The
    gradients are 2 · 1.2 and 2 · (−1.6): a chosen log-ratio beyond its target is pulled back. Win rates of 1 and 0
    are `sppo`."""
    assert loss_of("sppo_estimated", beta=0.5) == pytest.approx(4)
    logps = {name: CASE[name].clone().requires_grad_() for name in ("chosen_logps", "rejected_logps")}
    out = call("sppo_estimated", CASE | logps, {"beta": 0.5})
    out.losses.sum().backward()
    assert [float(x.grad) for x in logps.values()] == pytest.approx([2.4, -3.2])  # type: ignore[arg-type]
    assert (float(out.chosen_rewards), float(out.rejected_rewards)) == pytest.approx((1, -1))
    sure = CASE | {"chosen_win_rates": torch.ones(1), "rejected_win_rates": torch.zeros(1)}
    assert float(call("sppo_estimated", sure, {"beta": 0.3}).losses) == pytest.approx(loss_of("sppo", beta=0.3))


def test_ld_dpo() -> None:
    """Two tokens are shared: chosen −2 of −6 (reference −5 of −8), rejected all. α = ½: −4 − (−6.5) = 2.5 against
    −9 + 7 = −2: margin 4.5. α = 1 is DPO, α = 0 leaves the head: −2 + 5 = 3, margin 5."""
    assert loss_of("ld_dpo", beta=1.0, alpha=0.5) == pytest.approx(-log_sigmoid(4.5))
    assert loss_of("ld_dpo", beta=1.0, alpha=1.0) == pytest.approx(loss_of("dpo", beta=1.0))
    assert loss_of("ld_dpo", beta=1.0, alpha=0.0) == pytest.approx(-log_sigmoid(5))


def test_r_dpo() -> None:
    """β = ½, α = 0.1: 2 + 0.1 · (4 − 2) = 2.2. A pair that the longer one wins has the smaller gradient."""
    assert loss_of("r_dpo", beta=0.5, alpha=0.1) == pytest.approx(-log_sigmoid(2.2))
    assert loss_of("r_dpo", beta=0.5, alpha=0.0) == pytest.approx(loss_of("dpo", beta=0.5))


def test_apo_zero() -> None:
    """β = ½: 1 − σ(1) + σ(−1) = 2 σ(−1)."""
    assert loss_of("apo_zero", beta=0.5) == pytest.approx(2 * sigmoid(-1))


def test_simpo() -> None:
    """β = 2: 2 · (−6/4) = −3 and 2 · (−9/2) = −9: −log σ(−3 + 9 − 0.5); rewards are these."""
    assert loss_of("simpo", beta=2.0) == pytest.approx(-log_sigmoid(5.5))
    out = call("simpo", CASE, {"beta": 2.0})
    assert (float(out.chosen_rewards), float(out.rejected_rewards)) == pytest.approx((-3, -9))


def test_orpo() -> None:
    """P_w = e^−1.5, P_l = e^−4.5: odds P/(1 − P). −log P_w − 0.1 log σ(log odds_w − log odds_l)."""
    odds = [p / (1 - p) for p in (math.exp(-1.5), math.exp(-4.5))]
    assert loss_of("orpo", beta=0.1) == pytest.approx(1.5 - 0.1 * log_sigmoid(math.log(odds[0] / odds[1])))


@pytest.mark.parametrize("mean", [-1e-9, -1e-4, -0.5, -0.69314, -0.7, -5.0, -60.0])
def test_orpo_is_finite_with_its_gradient_everywhere(mean: float) -> None:
    """Also where 1 − P vanishes, and where P does."""
    chosen = torch.tensor([mean * 4], requires_grad=True)
    rejected = torch.tensor([mean * 2 - 1], requires_grad=True)
    out = call("orpo", {"chosen_logps": chosen, "rejected_logps": rejected, "chosen_lengths": torch.tensor([4.0]),
                        "rejected_lengths": torch.tensor([2.0])}, {"beta": 0.1})  # fmt: skip
    out.losses.sum().backward()
    assert torch.isfinite(out.losses).all()
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()
    assert torch.isfinite(rejected.grad).all()  # type: ignore[arg-type]


def test_rc_dpo() -> None:
    """β = ½, λ = 3: the pair's margin is 2, the chosen one's prompt is ahead by ½(2 − 1), the rejected one's length
    by ½(0 + 2): −[log σ(2) + log σ(½) + 3 log σ(1)] / 5. λ = 0 leaves the rejected one's comparison out."""
    expected = -(log_sigmoid(2) + log_sigmoid(0.5) + 3 * log_sigmoid(1)) / 5
    assert loss_of("rc_dpo", beta=0.5, balance=3.0) == pytest.approx(expected)
    assert loss_of("rc_dpo", beta=0.5, balance=0.0) == pytest.approx(-(log_sigmoid(2) + log_sigmoid(0.5)) / 2)
    out = call("rc_dpo", CASE, {"beta": 0.5})
    assert out.length_margins.tolist() == [0.5, 1.0]
    assert (float(out.chosen_rewards), float(out.rejected_rewards)) == (1, -1)
    with pytest.raises(ValueError, match="balance must not be negative"):
        loss_of("rc_dpo", beta=0.5, balance=-1.0)


def test_kto() -> None:
    """β = ½, z₀ = 1: desirable ρ = 2: 1 − σ(½); undesirable ρ = −2: 1 − σ(1.5), weighed 3."""
    logps, reference = torch.tensor([-6.0, -9.0]), torch.tensor([-8.0, -7.0])
    out = kto(logps, reference, torch.tensor([True, False]), torch.tensor(1.0), beta=0.5, undesirable_weight=3.0)
    assert out.losses.tolist() == pytest.approx([1 - sigmoid(0.5), 3 * (1 - sigmoid(1.5))], rel=1e-6)
    assert out.rewards.tolist() == pytest.approx([1, -1])


def test_ktos_reference_point_has_no_gradient() -> None:
    z0 = torch.tensor(1.0, requires_grad=True)
    logps = torch.tensor([-6.0], requires_grad=True)
    kto(logps, torch.tensor([-8.0]), torch.tensor([True]), z0, beta=0.5).losses.sum().backward()
    assert z0.grad is None
    assert logps.grad is not None


@settings(deadline=None)
@given(rewards=st.lists(st.floats(-4, 4), min_size=2, max_size=5))
def test_ranking_is_the_log_probability_of_drawing_the_order(rewards: list[float]) -> None:
    """Plackett-Luce by enumeration: draw without replacement, each in proportion to e^reward."""

    def probability(order: tuple[int, ...]) -> float:
        left, product = [math.exp(rewards[i]) for i in order], 1.0
        while left:
            product *= left[0] / sum(left)
            left = left[1:]
        return product

    given_order = tuple(range(len(rewards)))
    assert sum(map(probability, permutations(given_order))) == pytest.approx(1)
    logps = torch.tensor(rewards, dtype=torch.float64)
    out = ranking(logps, torch.zeros_like(logps), [len(rewards)], beta=1.0)
    assert float(out.losses) == pytest.approx(-math.log(probability(given_order)), abs=1e-9)


def test_ranking_of_two_is_dpo_and_groups_do_not_mix() -> None:
    logps = torch.tensor([-6.0, -9.0, -1.0, -2.0, -4.0], dtype=torch.float64)
    reference = torch.tensor([-8.0, -7.0, -1.5, -2.5, -3.0], dtype=torch.float64)
    out = ranking(logps, reference, [2, 3], beta=0.5)
    assert float(out.losses[0]) == pytest.approx(loss_of("dpo", beta=0.5))
    assert float(out.losses[1]) == pytest.approx(float(ranking(logps[2:], reference[2:], [3], beta=0.5).losses))


def test_imitation_has_the_mean_of_sft() -> None:
    """Chosen of 3 and 1 tokens, −2 and −4 nats: 6 nats over 4 tokens, whatever the number of groups is."""
    losses = imitation(torch.tensor([-2.0, -4.0]), step_chosen_tokens=4.0, step_groups=2.0)
    assert float(losses.mean()) == pytest.approx(1.5)


PAIRS = [name for name in LOSSES if level_of(name) == "pair" and name != "sft"]


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_loss_raises_the_chosen_and_lowers_the_rejected(name: str) -> None:
    """At the reference (or, without one, at equal means) the gradient prefers the chosen completion."""
    names = [key for key in CASE if "lengths" not in key]
    inputs = {key: torch.full((3,), -4.0, dtype=torch.float64, requires_grad=True) for key in names}
    inputs |= {key: torch.full((3,), 4.0, dtype=torch.float64) for key in CASE if "lengths" in key}
    inputs |= {"chosen_win_rates": torch.full((3,), 0.8), "rejected_win_rates": torch.full((3,), 0.1)}
    call(name, inputs, {"beta": 0.1}).losses.sum().backward()
    chosen, rejected = inputs["chosen_logps"].grad, inputs["rejected_logps"].grad
    assert chosen is not None
    assert rejected is not None
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@pytest.mark.parametrize("name", PAIRS)
def test_inputs_of_other_shapes_are_refused(name: str) -> None:
    inputs = dict(CASE) | {"rejected_logps": torch.zeros(2, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"tensors \[P\]"):
        call(name, inputs, {"beta": 0.1})


def test_what_the_table_knows() -> None:
    assert not needs_reference("simpo")
    assert not needs_reference("orpo")
    assert not needs_reference("sft")
    assert all(needs_reference(name) for name in LOSSES if name not in ("simpo", "orpo", "sft"))
    assert {name: level_of(name) for name in ("dpo", "kto", "ranking", "sft")} == {
        "dpo": "pair", "kto": "completion", "ranking": "group", "sft": "pair"
    }  # fmt: skip
    assert parameters("simpo")[1] == {"beta": None, "gamma": 0.5}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["nonsense"], {}, "unknown loss 'nonsense'; known: dpo, robust"),
        (["dpo"], {"gamma": 1.0}, "dpo takes no 'gamma'; it takes label_smoothing"),
        (["dpo", "simpo"], {"alpha": 1.0}, "dpo, simpo takes no 'alpha'; it takes gamma, label_smoothing"),
        (["dpo"], {"label_smoothing": 0.5}, "below 0.5"),
        (["sft"], {"x": 1.0}, "it takes nothing"),
    ],
)
def test_settings_that_no_loss_takes(names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(names, options)


def test_settings_that_losses_take() -> None:
    check_settings(list(LOSSES), {"gamma": 1.0, "alpha": 0.2, "desirable_weight": 2.0, "label_smoothing": 0.1})


def refused(check: Callable[[], object]) -> str | None:
    try:
        check()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_refuses_of_its_options_is_refused_with_the_settings(name: str) -> None:
    """Settings are checked before there is a tensor, the loss is called with some: both say the same."""
    ones = torch.ones(1)
    inputs = dict.fromkeys(parameters(name)[0], ones) | {"labels_C": ones.bool(), "sizes": [1]}
    for option in set(parameters(name)[1]) - {"beta"}:
        for value in (-1e6, -1.0, -1e-6, 0.0, 0.25, 0.5, 1.0, 1e6):
            by_settings = refused(partial(check_settings, [name], {option: value}))
            by_loss = refused(partial(call, name, inputs, {"beta": 0.1, option: value}))
            assert by_settings == by_loss, (option, value)
