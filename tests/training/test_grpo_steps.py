"""Every step of GRPO against GRPO by hand, and its invariance to how a step is cut; fixed rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training.by_hand import Call, train_by_hand
from training.grpo_runs import CAP, SAMPLES, STOPS, as_some, grpo, weights_of
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.rollout.sampler import Sampling
from trimtab.training.schedule import data_order

BY_HAND: dict[str, dict[str, Any]] = {
    "Eq. 6, KL in the reward": {"kl_coefficient": 0.5},
    "two clipped updates a batch": {"updates_per_batch": 2, "max_steps": 4, "clip_low": 0.02, "clip_high": 0.03},
    "clipped gradient": {"max_grad_norm": 0.05},
    "k2": {"kl": "k2", "kl_coefficient": 2.0},
    "exact": {"kl": "exact", "kl_coefficient": 2.0},
    "k3 by sequences": {"kl": "k3", "kl_coefficient": 2.0, "normalisation": "sequences"},
    "by tokens": {"normalisation": "tokens"},
    "by a constant, cut ones left out": {"normalisation": "constant", "mask_cut": True},
    "token weights": {"sampling": Sampling(max_new_tokens=CAP, temperatures=(0.5, 1.5)), "weight_cap": 1.5},
    "token weights by sequences": {
        "sampling": Sampling(max_new_tokens=CAP, temperatures=(0.5, 1.5)), "normalisation": "sequences",
        "kl": "k3", "kl_coefficient": 2.0,
    },
    "tempered": {
        "sampling": Sampling(max_new_tokens=CAP, temperatures=(0.5, 1.5)), "correction": "tempered",
        "kl_coefficient": 0.5,
    },
    "tempered, exact": {
        "sampling": Sampling(max_new_tokens=CAP, temperatures=(0.5, 1.5)), "correction": "tempered",
        "kl": "exact", "kl_coefficient": 2.0,
    },
    "not corrected": {"sampling": Sampling(max_new_tokens=CAP, temperatures=(0.5,)), "correction": "none"},
    "missing and equal rewards": {"name": "some"},
    "missing and equal rewards, k2": {"name": "some", "kl": "k2", "kl_coefficient": 2.0},
}  # fmt: skip


def same_weights(wanted: Any, found: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> None:
    for name, weight in wanted.named_parameters():
        moved = (weight.detach() - start[name]).norm()
        assert (found[name] - weight.detach()).norm() <= 1e-3 * moved + 2e-6, name
    assert max(float((weight - start[name]).norm()) for name, weight in found.items()) > 1e-2, "it moved"


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_step_equals_grpo_by_hand(kind: str, stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Two batches of sixteen completions, in passes. adam_epsilon = 1 makes a step lr · g / (|g| + 1), nearly
    proportional to the gradient: Adam's usual sign(g) would show neither its size nor a small part of it."""
    given = {
        "learning_rate": 0.3,
        "adam_epsilon": 1.0,
        "max_grad_norm": 1e6,
        "token_budget": 150,
        "kl_coefficient": 0.0,
    }
    ran = grpo(stopping_model, toy_pairs, tmp_path, **given | BY_HAND[kind])
    settings = json.loads((ran.out / "stage.json").read_text())["settings"]
    for call in ran.calls:
        if BY_HAND[kind].get("name") == "some":
            call.rewards = as_some(call.rewards)
    wanted = train_by_hand(stopping_model, ran.calls, GRPOSettings(**settings), STOPS)
    assert len(ran.calls) == 2, "two batches"
    same_weights(wanted, ran.weights, weights_of(stopping_model))
    if "updates_per_batch" in BY_HAND[kind]:
        low, high = ([row[f"clip_ratio/{side}_mean"] for row in ran.rows] for side in ("low", "high"))
        assert low[0] == low[2] == high[0] == high[2] == 0, "the first update of a batch: ratios of 1"
        assert min(low[1], high[1]) > 0.05, "the second: clipped on both sides"
        assert [row["ratio"] for row in ran.rows[::2]] == pytest.approx([1, 1], abs=1e-5)
    assert ("log_ratio" in ran.rows[0]) == ("sampling/effective_sample_size" in ran.rows[0])
    assert ("kl" in ran.rows[0]) == ("sampling" not in BY_HAND[kind]), "KL only of samples at temperature 1"


@pytest.mark.parametrize("normalisation", ["sum", "tokens"])
def test_passes_and_accumulation_change_nothing(
    normalisation: str, stopping_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    """4 prompts in one pass, in one pass each, and as 2 × 2."""
    given = {"learning_rate": 0.3, "adam_epsilon": 1.0, "max_grad_norm": 1e6, "normalisation": normalisation}
    ways = [{"token_budget": 10_000}, {"token_budget": 1}, {"batch_size": 2, "accumulation": 2}]
    runs = [grpo(stopping_model, toy_pairs, tmp_path / str(i), **given, **way) for i, way in enumerate(ways)]
    start, first = weights_of(stopping_model), runs[0]
    for other in runs[1:]:
        for name, weight in first.weights.items():
            moved = (weight - start[name]).norm()
            assert (other.weights[name] - weight).norm() <= 1e-4 * moved + 1e-6, name
        for mine, theirs in zip(first.rows, other.rows, strict=True):
            same = {k: v for k, v in mine.items() if k not in ("seconds",) and "difference" not in k}
            assert {k: theirs[k] for k in same} == pytest.approx(same, rel=1e-4, abs=1e-5)


# ---- fixed rollouts


def test_fixed_rollouts_are_sampled_once_and_trained_on_in_epochs(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    """6 prompts, 3 a step: four steps are two epochs over what one call scored. Again by hand: π_old and the
    sampler are the starting model in every step, so that later ratios leave 1 and are clipped."""
    given = {
        "rollouts": "fixed", "fixed_prompts": 6, "batch_size": 3, "max_steps": 4, "kl": "k2", "kl_coefficient": 0.2,
        "learning_rate": 0.3, "adam_epsilon": 1.0, "max_grad_norm": 1e6,
    }  # fmt: skip
    ran = grpo(stopping_model, toy_pairs, tmp_path / "once", **given)
    (call,) = ran.calls
    assert len(call.completion_ids) == 6 * SAMPLES
    assert len(ran.completions) == 6 * SAMPLES, "written once, though every step is logged"
    steps = []
    for step in range(4):
        epoch, half = divmod(step, 2)
        places = data_order(6, 42, epoch)[3 * half : 3 * half + 3]
        chosen = [i for place in places for i in range(SAMPLES * place, SAMPLES * (place + 1))]
        steps.append(Call(*([part[i] for i in chosen] for part in vars(call).values())))
    settings = json.loads((ran.out / "stage.json").read_text())["settings"]
    wanted = train_by_hand(stopping_model, steps, GRPOSettings(**settings), STOPS)
    same_weights(wanted, ran.weights, weights_of(stopping_model))
    assert ran.rows[0]["ratio"] == pytest.approx(1, abs=1e-5)
    assert ran.rows[3]["clip_ratio/high_mean"] > 0.05
    assert ["reward" in row for row in ran.rows] == [True, False, False, False], "sampled with the first step"
    again = grpo(stopping_model, toy_pairs, tmp_path / "twice", **given)
    assert all(torch.equal(weight, again.weights[name]) for name, weight in ran.weights.items())
