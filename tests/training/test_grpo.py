"""GRPO as a stage: what it learns, what it logs, what it makes of missing rewards, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.by_hand import advantages_of
from training.grpo_runs import PROMPTS, SAMPLES, STOPS, Ran, as_some, grpo, reward_named, weights_of
from trimtab.command_settings import stage_settings
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.training.stage import run_stage

# ---- what it learns, and what it logs


@pytest.fixture(scope="module")
def learned(stopping_model: Path, toy_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("learned")
    return grpo(
        stopping_model, toy_pairs, folder, validation=6, learning_rate=1e-2, max_steps=30, evaluation_interval=30,
        kl_coefficient=0.001, token_budget=400, judge=reward_named(folder, "rising"),
    )  # fmt: skip


def test_the_reward_that_counts_tokens_rises(learned: Ran) -> None:
    first, last = ([row["reward"] for row in part] for part in (learned.rows[:5], learned.rows[-5:]))
    assert sum(last) / 5 > sum(first) / 5 + 1.5, "tokens of the lower half, of at most 8"
    assert learned.evaluations[-1]["eval_reward"] > learned.evaluations[0]["eval_reward"] + 1
    assert learned.evaluations[-1]["eval_kl"] > 0.05


def test_step_metrics_have_trls_names(learned: Ran) -> None:
    names = {
        "loss", "grad_norm", "learning_rate", "num_tokens", "entropy", "kl", "reward", "reward_std",
        "frac_reward_zero_std", "completions/mean_length", "completions/min_length", "completions/max_length",
        "completions/clipped_ratio", "completions/mean_terminated_length",
        "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max",
    }  # fmt: skip
    assert names <= set(learned.rows[0])
    for row in learned.rows:
        assert 1 <= row["completions/min_length"] <= row["completions/mean_length"] <= row["completions/max_length"]
        assert row["completions/clipped_ratio"] + row["completions/terminated"] == pytest.approx(1)


def test_the_policy_starts_at_the_reference_and_samples_as_it_trains(learned: Ran) -> None:
    """KL 0 at the first step; afterwards not. The engine's log-probabilities are the trainer's throughout."""
    assert learned.rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert learned.evaluations[0]["eval_kl"] == pytest.approx(0, abs=1e-4)
    assert min(row["kl"] for row in learned.rows[-3:]) > 0.05
    differences = [row["sampling/sampling_logp_difference/max"] for row in learned.rows]
    assert 0 < max(differences) <= 1e-4


def test_the_first_step_metrics_by_hand(learned: Ran) -> None:
    """From the first call of the reward after the evaluation's, which has the six validation prompts."""
    evaluated, first = learned.calls[0], learned.calls[1]
    assert (len(evaluated.completion_ids), len(first.completion_ids)) == (6, PROMPTS * SAMPLES)
    row, lengths = learned.rows[0], [len(ids) for ids in first.completion_ids]
    ended = [len(ids) for ids in first.completion_ids if ids[-1] in STOPS]
    groups = torch.tensor(first.rewards, dtype=torch.float64).view(PROMPTS, SAMPLES)
    assert row["reward"] == pytest.approx(float(groups.mean()))
    assert row["lower_half"] == pytest.approx(float(groups.sum())), "what the function gave to log_metric"
    assert row["reward_std"] == pytest.approx(float(groups.std(1).mean()))
    assert row["frac_reward_zero_std"] == pytest.approx(float((groups.std(1) == 0).double().mean()))
    assert (row["completions/min_length"], row["completions/max_length"]) == (min(lengths), max(lengths))
    assert row["completions/mean_length"] == pytest.approx(sum(lengths) / 16)
    assert 1 <= len(ended) <= 15, "some end, some are cut"
    assert row["completions/clipped_ratio"] == pytest.approx(1 - len(ended) / 16)
    assert row["completions/mean_terminated_length"] == pytest.approx(sum(ended) / len(ended))
    assert learned.evaluations[0]["eval_lower_half"] == sum(evaluated.rewards)  # type: ignore[arg-type]
    assert learned.evaluations[0]["eval_reward"] == pytest.approx(sum(evaluated.rewards) / 6)  # type: ignore[arg-type]


def test_completions_are_written_with_rewards_and_advantages(learned: Ran) -> None:
    assert len(learned.completions) == 30 * PROMPTS * SAMPLES, "every step is logged here"
    for step, call in [(1, learned.calls[1]), (30, learned.calls[30])]:
        rows = [row for row in learned.completions if row["step"] == step]
        assert [row["reward"] for row in rows] == call.rewards
        assert [row["tokens"] for row in rows] == [len(ids) for ids in call.completion_ids]
        # The KL of the first step is 0, so that its advantages are those of the rewards alone.
        wanted = pytest.approx(advantages_of(call.rewards, SAMPLES), abs=1e-4 if step == 1 else 0.2)
        assert [row["advantage"] for row in rows] == wanted
        assert {row["finish"] for row in rows} <= {"stop", "cap"}
        assert [row["prompt"] for row in rows] == call.prompts


def test_evaluations_log_reward_kl_accuracy_and_judge(learned: Ran) -> None:
    """At step 0 the log-ratio to the reference is 0 in every pair: all ties, which count half."""
    names = {"eval_reward", "eval_kl", "eval_rewards/accuracies", "eval_rewards/margins", "eval_judge"}
    assert [row["step"] for row in learned.evaluations] == [0, 30]
    for row in learned.evaluations:
        assert names <= set(row)
    assert learned.evaluations[0]["eval_rewards/accuracies"] == 0.5
    assert abs(learned.evaluations[0]["eval_judge"] - learned.evaluations[0]["eval_reward"]) > 1, "another reward"


# ---- rewards that say little


def test_a_missing_reward_leaves_the_baseline_and_lone_ones_are_dropped(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    """4 of 16 are missing; the second prompt has one reward left, and no baseline: 1 of 4 groups is dropped. The
    third prompt's are equal: 1 of 4 again, the first's and the last's not being so."""
    ran = grpo(stopping_model, toy_pairs, tmp_path, "some", kl_coefficient=0.0)
    row, given = ran.rows[0], as_some(ran.calls[0].rewards)
    known = [r for r in given if r is not None]
    assert (row["rewards/missing"], row["groups_dropped"], row["frac_reward_zero_std"]) == (4 / 16, 1 / 4, 1 / 4)
    assert min(len(set(given[1:4])), len(set(given[12:]))) > 1
    assert row["reward"] == pytest.approx(sum(known) / 12), "a missing reward is no 0"
    rows = [one for one in ran.completions if one["step"] == 1]
    assert [one["reward"] for one in rows] == given
    assert [one["advantage"] for one in rows] == pytest.approx(advantages_of(given, SAMPLES))
    assert [i for i, one in enumerate(rows) if one["advantage"] is None] == [0, 4, 5, 6, 7]
    assert rows[0]["reason"]


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_equal_rewards_change_no_weight(stopping_model: Path, toy_pairs: Path, tmp_path: Path, kl: float) -> None:
    """Also with the KL in the reward: at π = π_ref it is rounding, of which Adam would make a full step."""
    ran = grpo(stopping_model, toy_pairs, tmp_path, "alike", kl_coefficient=kl)
    for name, weight in weights_of(stopping_model).items():
        assert torch.equal(ran.weights[name], weight), name
    assert [row["frac_reward_zero_std"] for row in ran.rows] == [1.0, 1.0]
    assert [row["grad_norm"] for row in ran.rows] == [0.0, 0.0]
    assert [row["reward_std"] for row in ran.rows] == [0.0, 0.0]
    assert ran.rows[0]["groups_dropped"] == 0
    told = json.loads((ran.out / "done.json").read_text())["warnings"]
    assert any(line.startswith("in 2 of 2 batches all completions of each prompt had the same") for line in told)


def test_every_step_samples_anew_and_the_seed_says_what(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    """One prompt, twice in every step, and weights that stay: with the same numbers, samples would be the same."""
    one = tmp_path / "one.jsonl"
    one.write_text(toy_pairs.read_text().splitlines()[0] + "\n")
    given = {"batch_size": 2, "learning_rate": 1e-12}
    drawn = [
        [
            tuple(ids)
            for call in grpo(stopping_model, one, tmp_path / name, seed=seed, **given).calls
            for ids in call.completion_ids
        ]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert len(drawn[0]) == 2 * 2 * SAMPLES
    assert len({ids for ids in drawn[0] if len(ids) > 2}) == sum(len(ids) > 2 for ids in drawn[0])
    assert drawn[0] == drawn[1]
    assert not {ids for ids in drawn[0] if len(ids) > 2} & set(drawn[2])


# ---- what is refused

REFUSED = [
    ("one sample has no baseline", ["samples=1"], "samples"),
    ("greedy samples have no gradient", ["sampling.temperatures=[1.0, 0.0]"], "temperatures above 0"),
    ("the KL to itself is 0", ["rollouts=fixed"], "always 0 with fixed rollouts"),
    ("fixed rollouts have epochs", ["rollouts=fixed", "kl=k2", "updates_per_batch=2"], "updates_per_batch"),
    ("k2 is of whole sequences", ["kl=k2", "normalisation=sequences"], "whole sequences"),
    ("a sequence's ratio has no tokens", ["ratio=sequence", "normalisation=sequences"], "ratio 'sequence'"),
    ("nor weights", ["ratio=sequence", "sampling.temperatures=[0.7]"], "ratio 'sequence'"),
    ("an unknown objective", ["objective=leave_two_out"], "leave_one_out, group_normalised"),
    ("truncated sampling", ["sampling.top_p=0.9"], "unknown setting 'sampling.top_p'"),
]


@pytest.mark.parametrize(("why", "overrides", "message"), REFUSED, ids=[why for why, _, _ in REFUSED])
def test_settings_that_make_no_sense_are_refused(why: str, overrides: list[str], message: str) -> None:
    with pytest.raises(TrimtabError, match=message):
        stage_settings("grpo", "pairs.jsonl", None, overrides)


def test_fixed_rollouts_without_a_kl_are_fine() -> None:
    settings, _ = stage_settings("grpo", "pairs.jsonl", None, ["rollouts=fixed", "kl_coefficient=0"])
    assert isinstance(settings, GRPOSettings)


def test_a_run_without_a_reward_is_one_clear_error(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=r"no reward\. Name one in 'rewards'"):
        run_stage(
            "grpo", GRPO, GRPOSettings(), DataSettings(train=str(toy_pairs)), str(stopping_model), tmp_path / "o"
        )


def test_fixed_prompts_without_any_reward_are_an_error(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        TrimtabError, match=r"none of the 8 completions of the batch has a score \(8 × nothing gave None\)"
    ):
        grpo(stopping_model, toy_pairs, tmp_path, "nothing", rollouts="fixed", kl="k2", fixed_prompts=2)
