"""Reward model training: Bradley-Terry on preference pairs. Ouyang et al. 2022, Eq. 1.

The same groups as DPO's: two completions, chosen first, a prompt computed once for both where the backbone
serves the tree. Margins come from the data's scores where they are wanted (Touvron et al. 2023, Eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.pairs import reward_format
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.statistics import wilson_interval
from trimtab.losses.reward_model import bradley_terry, center
from trimtab.models.reward_model import RewardModel, for_scoring, load_reward_model
from trimtab.training.method import Sums
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import Prepared, StageMethod


class RewardModelSettings(TrainingSettings):
    learning_rate: float = Field(1e-5, gt=0)
    margin: float | None = Field(None, gt=0)
    """Times the difference of a pair's scores, subtracted from the difference of rewards; None: no margin."""
    center: float = Field(0.0, ge=0)
    """Weight of (r_w + r_l)², which keeps rewards around 0 (Eisenstein et al. 2023)."""

    @model_validator(mode="after")
    def _in_float32(self) -> RewardModelSettings:
        if self.lora is not None and self.lora.quantize is not None:
            raise ValueError("lora.quantize is for language models; a reward model takes lora without it")
        return self


class RewardModelTraining(StageMethod):
    best_metric = "accuracy"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "pair"
    version = 1
    settings: RewardModelSettings

    def __init__(self, settings: RewardModelSettings, prepared: Prepared) -> None:
        super().__init__(settings, prepared)
        model: RewardModel = prepared.policy
        model.bind(prepared.chat)
        # A score is read at a completion's last token, which a packed batch would not feed.
        prepared.train[:] = map(for_scoring, prepared.train)
        prepared.validation[:] = map(for_scoring, prepared.validation)
        longest = max(
            len(g.prompt) + max(map(len, g.completions)) - 1 for g in prepared.train + prepared.validation
        )
        if model.max_length is not None and longest > model.max_length:
            raise TrimtabError(
                f"reward model {model.source}: takes {model.max_length} positions, but a row has {longest} tokens. "
                f"Set max_length to at most {model.max_length}."
            )
        if settings.margin is not None and any(group.scores is None for group in prepared.train):
            raise TrimtabError("reward: 'margin' needs rows with scores, and some have none. Leave it out.")

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> RewardModel:
        return load_reward_model(source, settings, seed=settings.seed)

    @classmethod
    def text_format(cls, tokenizer: Any, data: DataSettings) -> Any:
        return reward_format(tokenizer, data)

    @classmethod
    def save(cls, policy: Any, chat: Any, folder: Path) -> None:
        chat.tokenizer.save_pretrained(folder)
        policy.save(folder)

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        return len(groups)

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        losses, chosen, rejected = self._losses(policy, batch)
        if self.settings.center:
            losses = losses + self.settings.center * center(chosen, rejected)
        return losses.sum() / total, pair_scores(chosen.detach(), rejected.detach())

    def _losses(self, policy: Callable[..., Any], batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        chosen, rejected = policy(batch).view(-1, 2).unbind(1)
        margin = None
        if self.settings.margin is not None and all(g.scores is not None for g in batch.groups):
            gaps = [g.scores[0] - g.scores[-1] for g in batch.groups if g.scores is not None]
            margin = self.settings.margin * torch.tensor(gaps, device=chosen.device)
        return bradley_terry(chosen, rejected, margin), chosen, rejected

    def evaluate_pass(self, policy: Callable[..., Any], batch: PackedBatch) -> Sums:
        losses, chosen, rejected = self._losses(policy, batch)
        return {"loss": (float(losses.sum()), float(losses.numel())), **pair_scores(chosen, rejected)}

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        """With a 95 % Wilson interval of the accuracy."""
        found = super().evaluate(policy)
        if found:
            pairs = len(self.prepared.validation)
            interval = wilson_interval(round(found["accuracy"] * pairs), pairs)
            found |= {"accuracy/low": interval.low, "accuracy/high": interval.high}
        return found


def pair_scores(chosen: Tensor, rejected: Tensor) -> Sums:
    """TRL's names. accuracy: share of pairs whose chosen completion scores higher, ties half."""
    margins = chosen - rejected
    pairs = float(margins.numel())
    return {
        "accuracy": (float(((margins > 0).float() + 0.5 * (margins == 0).float()).sum()), pairs),
        "margin": (float(margins.sum()), pairs),
        "mean_reward": (float((chosen + rejected).sum()) / 2, pairs),
    }
