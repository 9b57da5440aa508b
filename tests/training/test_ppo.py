"""PPO as a stage: every update against PPO by hand, what it learns and logs, and what changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.grpo_runs import CAP, STOPS, Ran, as_some, ppo, reward_named, weights_of
from training.ppo_by_hand import train_by_hand
from training.test_grpo_steps import same_weights
from trimtab.command_settings import stage_settings
from trimtab.errors import TrimtabError
from trimtab.methods.ppo_settings import PPOSettings
from trimtab.models.settings import LoraSettings
from trimtab.rollout.sampler import Sampling

STEEP = {"learning_rate": 0.3, "adam_epsilon": 1.0, "max_grad_norm": 1e6, "value_learning_rate": 1.5}
"""A step is then nearly proportional to the gradient (tests/training/test_grpo_steps.py)."""
MIXED = Sampling(max_new_tokens=CAP, temperatures=(0.5, 1.5))
BY_HAND: dict[str, dict[str, Any]] = {
    "as it is, one sample": {"samples": 1, "kl_coefficient": 0.5},
    "four samples, three tight updates": {
        "updates_per_batch": 3, "max_steps": 6, "clip": 0.03, "value_clip": 0.02, "value_coefficient": 1.0,
    },
    "nothing clipped or whitened": {
        "clip": None, "value_clip": None, "whiten": False, "gae_lambda": 1.0, "gamma": 0.8, "kl_coefficient": 0.3,
        "value_coefficient": 0.5,
    },
    "clipped gradient": {"max_grad_norm": 0.05},
    "cut ones left out": {"mask_cut": True, "whiten": False},
    "missing rewards": {"name": "some", "gae_lambda": 0.5},
    "token weights": {"sampling": MIXED, "weight_cap": 1.5},
    "tempered": {"sampling": MIXED, "correction": "tempered", "kl_coefficient": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_update_equals_ppo_by_hand(kind: str, stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Two batches of two updates or more, in passes. The second update's gradient goes through the value head that
    the first one moved, and the second batch's advantages lean on it."""
    given = {"samples": 4, "updates_per_batch": 2, "max_steps": 4, "token_budget": 150, **STEEP}
    ran = ppo(stopping_model, toy_pairs, tmp_path, **given | BY_HAND[kind])
    assert len(ran.calls) == 2
    if BY_HAND[kind].get("name") == "some":
        for call in ran.calls:
            call.rewards = as_some(call.rewards)
    settings = PPOSettings(**json.loads((ran.out / "stage.json").read_text())["settings"])
    wanted, batches = train_by_hand(stopping_model, ran.calls, settings, STOPS)
    same_weights(wanted, ran.weights, weights_of(stopping_model))
    updates = settings.updates_per_batch
    for i, batch in enumerate(batches):
        rows = ran.rows[i * updates : (i + 1) * updates]
        assert [row["loss/policy_avg"] for row in rows] == pytest.approx(batch.policy_loss, rel=2e-3, abs=1e-4)
        assert [row["loss/value_avg"] for row in rows] == pytest.approx(batch.value_loss, rel=2e-3, abs=1e-4)
        assert rows[0]["val/explained_variance"] == pytest.approx(batch.explained, abs=2e-3)
        assert rows[0]["ratio"] == pytest.approx(1, abs=1e-5)
        assert rows[0]["clip_ratio/low_mean"] == rows[0]["clip_ratio/high_mean"] == 0
        assert ["reward" in row for row in rows] == [True, *[False] * (updates - 1)], "sampled with the first"
    if "tight" in kind:
        last = ran.rows[-1]
        assert min(last["clip_ratio/low_mean"], last["clip_ratio/high_mean"], last["val/clipfrac_avg"]) > 0.02


def test_passes_and_accumulation_change_nothing(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """4 prompts in one pass, in one pass each, and as 2 × 2."""
    ways = [{"token_budget": 10_000}, {"token_budget": 1}, {"batch_size": 2, "accumulation": 2}]
    given = {"samples": 2, "updates_per_batch": 2, "max_steps": 4, **STEEP}
    runs = [ppo(stopping_model, toy_pairs, tmp_path / str(i), **given, **way) for i, way in enumerate(ways)]
    start, first = weights_of(stopping_model), runs[0]
    for other in runs[1:]:
        for name, weight in first.weights.items():
            moved = (weight - start[name]).norm()
            assert (other.weights[name] - weight).norm() <= 1e-4 * moved + 1e-6, name
        for mine, theirs in zip(first.rows, other.rows, strict=True):
            same = {k: v for k, v in mine.items() if k != "seconds" and "difference" not in k}
            assert {k: theirs[k] for k in same} == pytest.approx(same, rel=1e-4, abs=1e-5)


# ---- what it learns, and what it logs


@pytest.fixture(scope="module")
def learned(stopping_model: Path, toy_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("learned")
    return ppo(
        stopping_model, toy_pairs, folder, validation=6, learning_rate=1e-2, batch_size=16, samples=1, max_steps=40,
        updates_per_batch=2, evaluation_interval=40, kl_coefficient=0.001, value_coefficient=0.5, value_clip=None,
        judge=reward_named(folder, "rising"),
    )  # fmt: skip


def test_the_reward_that_counts_tokens_rises(learned: Ran) -> None:
    """From one sample of each prompt: there is no group to compare with, and so no baseline but the value."""
    rewards = [row["reward"] for row in learned.rows if "reward" in row]
    assert len(rewards) == 20
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 1.5, "tokens of the lower half, of at most 8"
    assert learned.evaluations[-1]["eval_reward"] > learned.evaluations[0]["eval_reward"] + 1
    assert learned.evaluations[-1]["eval_kl"] > 0.05


def test_the_value_learns_what_is_still_to_come(learned: Ran) -> None:
    """Before a batch's updates: ½ R² where the head is 0, and far less later, though R has risen."""
    losses = [row["loss/value_avg"] for row in learned.rows[::2]]
    assert learned.rows[0]["val/explained_variance"] == pytest.approx(0), "a head of zeros"
    assert losses[0] > 4
    assert sum(losses[-4:]) / 4 < losses[0] / 3


def test_metrics_have_trls_names(learned: Ran) -> None:
    names = {
        "loss", "grad_norm", "entropy", "kl", "reward", "objective/non_score_reward", "objective/rlhf_reward",
        "loss/policy_avg", "loss/value_avg", "policy/approxkl_avg", "val/clipfrac_avg", "ratio",
        "clip_ratio/low_mean", "clip_ratio/high_mean", "completions/mean_length", "rewards/missing",
        "sampling/sampling_logp_difference/max", "groups_dropped",
    }  # fmt: skip
    first, second = learned.rows[:2]
    assert names <= set(first)
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert first["objective/rlhf_reward"] == pytest.approx(first["reward"], abs=1e-4)
    assert first["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
    assert second["policy/approxkl_avg"] > 1e-5
    later = next(row for row in reversed(learned.rows) if "kl" in row)
    assert later["objective/non_score_reward"] == pytest.approx(-0.001 * later["kl"], rel=1e-3, abs=1e-6)
    assert first["loss"] == pytest.approx(first["loss/policy_avg"] + 0.5 * first["loss/value_avg"], rel=1e-5)
    names = {"eval_reward", "eval_kl", "eval_judge", "eval_rewards/accuracies"}
    assert all(names <= set(row) for row in learned.evaluations)


# ---- rewards that are missing, adapters, what is refused


def test_without_any_reward_the_run_ends(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=r"none of the 16 completions of the batch has a score \(16 × nothing"):
        ppo(stopping_model, toy_pairs, tmp_path, "nothing", updates_per_batch=2)


def test_steps_without_any_reward_move_nothing(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Two updates on a batch without scores, and two on one with."""
    ran = ppo(stopping_model, toy_pairs, tmp_path, "later", updates_per_batch=2, max_steps=4)
    assert [row["groups_dropped"] for row in ran.rows[::2]] == [1, 0]
    assert [row["grad_norm"] == 0 for row in ran.rows] == [True, True, False, False]
    assert {row["advantage"] for row in ran.completions if row["step"] == 1} == {None}
    told = json.loads((ran.out / "done.json").read_text())["warnings"]
    assert "1 of 2 batches had no score at all; nothing was learnt from them." in told


def test_a_missing_reward_leaves_the_batch(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """At the first step the value is 0 and so is the KL: with λ = 1 every token's advantage is its score."""
    ran = ppo(stopping_model, toy_pairs, tmp_path, "some", gae_lambda=1.0, max_steps=1)
    given = as_some(ran.calls[0].rewards)
    rows = [row for row in ran.completions if row["step"] == 1]
    assert [row["advantage"] for row in rows] == pytest.approx(given, abs=1e-4)
    assert ran.rows[0]["rewards/missing"] == 4 / 16


def test_an_adapter_with_a_value_head(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    ran = ppo(
        stopping_model, toy_pairs, tmp_path, validation=4, samples=2, updates_per_batch=2, max_steps=4,
        lora=LoraSettings(rank=2), best_metric="step", best_is="highest",
    )  # fmt: skip
    assert ran.rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    start = weights_of(stopping_model)
    assert any(not torch.equal(weight, start[name]) for name, weight in ran.weights.items())
    same = [name for name, weight in ran.weights.items() if torch.equal(weight, start[name])]
    assert any("embed" in name for name in same), "frozen"
    best = ran.out / "best"
    saved = [*load_file(best / "model.safetensors"), *load_file(best / "adapter" / "adapter_model.safetensors")]
    assert not any("value_head" in name for name in saved)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["samples=0"], "samples"),
        (["gae_lambda=1.5"], "gae_lambda"),
        (["sampling.temperatures=[0.0]"], "temperatures above 0"),
        (["objective=leave_one_out"], "unknown setting 'objective'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(TrimtabError, match=message):
        stage_settings("ppo", "pairs.jsonl", None, overrides)
