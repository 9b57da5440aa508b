"""Several heads of one reward model: what each is trained on, and who can read them."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from training.grpo_runs import reward_named
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.reward import RewardModelTraining, bootstrap_weights, disagreement
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.models.reward_model import for_scoring, load_reward_model
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.ensemble import EnsembleReward
from trimtab.rewards.function import FunctionReward
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage


def test_bootstrap_weights_are_of_the_row_and_the_head() -> None:
    groups = [CompletionGroup((1,), ((2,), (3,)), index=i) for i in range(500)]
    weights = bootstrap_weights(pack(groups), 4, 3).view(500, 4)
    assert torch.equal(bootstrap_weights(pack(groups[7:9]), 4, 3).view(2, 4), weights[7:9])
    assert float(weights.mean()) == pytest.approx(1, abs=0.1)
    assert float(weights.var()) == pytest.approx(1, abs=0.15)
    assert abs(np.corrcoef(weights.numpy().T)[0, 1]) < 0.15
    assert not torch.equal(weights, bootstrap_weights(pack(groups), 4, 4).view(500, 4))


def test_disagreement_by_hand() -> None:
    """Margins 1, 2, −1 (mean 2/3: one of three otherwise) and 1, 1, 1."""
    found = disagreement(torch.tensor([[1.0, 2.0, -1.0], [1.0, 1.0, 1.0]]))
    assert found["heads/otherwise"] == (1.0, 6.0)
    assert found["heads/spread"] == (pytest.approx(statistics.pstdev([1, 2, -1])), 2.0)


def test_heads_of_one_reward_model(toy_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Trained, read by transformers as a plain classifier with a label a head, and by rewards with their spread."""
    given = {"heads": 3, "batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "token_budget": 300}
    settings = RewardModelSettings(**given, logging_interval=1, precision="float32")
    data = DataSettings(train=str(toy_pairs), validation_rows=8)
    best = run_stage("reward", RewardModelTraining, settings, data, str(toy_model), tmp_path / "out")
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert {"heads/spread", "heads/otherwise", "accuracy"} <= rows[-2].keys()
    plain = AutoModelForSequenceClassification.from_pretrained(best).eval()
    assert plain.config.num_labels == 3
    model = load_reward_model(str(best), new_head=False).eval()
    group = CompletionGroup((5, 6, 7), ((8, 9), (10, 11, 12)))
    with torch.no_grad():
        ours = model(pack([for_scoring(group)]))
        theirs = [plain(torch.tensor([[5, 6, 7, *c]])).logits[0] for c in group.completions]
    assert torch.allclose(ours, torch.stack(theirs), atol=1e-5)
    reward = ClassifierReward(str(best))
    (found,) = reward.scored(["Hello"], ["Paris is good."])
    heads = [found.breakdown[f"head_{i}"] for i in range(3)]
    assert reward.heads == 3
    assert len(set(heads)) == 3
    assert found.score == pytest.approx(statistics.fmean(heads))  # type: ignore[arg-type]
    assert found.breakdown["spread"] == pytest.approx(statistics.pstdev(heads))  # type: ignore[type-var]
    ensemble = EnsembleReward([reward], 1.0)
    (pessimistic,) = ensemble.scored(["Hello"], ["Paris is good."])
    assert pessimistic.score == pytest.approx(found.score - found.breakdown["spread"])  # type: ignore[operator]
    with pytest.raises(TrimtabError, match="a reward model of 3 heads, not 5"):
        load_reward_model(str(best), heads=5)


def test_grpo_puts_the_members_on_one_scale_first(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """A member is ten times the other, and off by 100: on one scale they agree, on every sample."""

    def high(completion_ids: list[list[int]]) -> list[float]:
        return [100 + 10 * float(sum(token < 896 for token in ids)) for ids in completion_ids]

    reward = EnsembleReward([reward_named(tmp_path, "low"), FunctionReward(high)], 1.0)
    given = {"samples": 2, "sampling": {"max_new_tokens": 6}, "validation_prompts": 0, "kl_coefficient": 0.0}
    settings = GRPOSettings(**given, batch_size=3, max_steps=1, logging_interval=1, precision="float32")
    data = DataSettings(train=str(toy_pairs))
    run_stage("grpo", GRPO, settings, data, str(stopping_model), tmp_path / "out", reward=reward)
    row = next(row for row in read_metrics(tmp_path / "out" / "metrics.jsonl") if "reward" in row)
    assert row["rewards/spread/mean"] == pytest.approx(0, abs=1e-6)
    assert row["otherwise/low"] == row["otherwise/high"] == 0
    assert row["reward"] == pytest.approx(row["rewards/mean/mean"])


def test_a_heads_loss_is_bradley_terrys_under_its_weights(toy_model: Path) -> None:
    """Σ over heads and pairs of w · −log σ(r_w − r_l) ÷ (heads · pairs)."""
    model = load_reward_model(str(toy_model), seed=1, heads=2)
    groups = [for_scoring(CompletionGroup((5, 6), ((7, 8 + i), (9,)), index=i)) for i in range(5)]
    method = object.__new__(RewardModelTraining)
    method.settings = RewardModelSettings(heads=2, seed=9)
    batch = pack(groups)
    loss, _ = method.loss(model, batch, len(groups))
    scores_CH = model(batch).detach().double()
    weights = bootstrap_weights(batch, 2, 9).view(5, 2)
    by_hand = sum(
        float(weights[i, h]) * math.log1p(math.exp(-float(scores_CH[2 * i, h] - scores_CH[2 * i + 1, h])))
        for i in range(5)
        for h in range(2)
    )
    assert float(loss.detach()) == pytest.approx(by_hand / 10, rel=1e-5)
