"""Direct preference optimization. Rafailov et al. 2023 (arXiv 2305.18290).

Groups of two completions, chosen first; the prompt is computed once for both. The reference is the
model that training starts from: its log-probabilities are computed before the first step and kept.
Where we depart: dropout is off (as in TRL); a tie of implicit rewards counts half in the accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.losses.preference import LOSSES, PreferenceLoss
from trimtab.training.method import Sums
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import Prepared, StageMethod


class DPOSettings(TrainingSettings):
    learning_rate: float = Field(5e-6, gt=0)
    loss: str = "dpo"
    beta: float = Field(0.1, gt=0)

    @field_validator("loss")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LOSSES:
            raise ValueError(f"unknown loss {value!r}; known: {', '.join(LOSSES)}")
        return value


class DPO(StageMethod):
    best_metric = "rewards/accuracies"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "pair"
    version = 1
    settings: DPOSettings

    def __init__(self, settings: DPOSettings, prepared: Prepared) -> None:
        super().__init__(settings, prepared)
        self.reference = prepared.reference_logps()

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        return len(groups)

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        out, chosen, rejected = self._losses(policy, batch)
        return out.losses.sum() / total, pair_metrics(out, chosen, rejected)

    def _losses(self, policy: Callable[..., Any], batch: PackedBatch) -> tuple[PreferenceLoss, Tensor, Tensor]:
        reference_M = torch.cat([self.reference[id(group)] for group in batch.groups])
        logps_P2 = batch.sum_by_completion(policy(batch).logps).view(-1, 2)
        reference_P2 = batch.sum_by_completion(reference_M.to(logps_P2.device)).view(-1, 2)
        chosen, rejected = logps_P2.unbind(1)
        out = LOSSES[self.settings.loss](chosen, rejected, *reference_P2.unbind(1), beta=self.settings.beta)
        return out, chosen.detach(), rejected.detach()

    def evaluate_pass(self, policy: Callable[..., Any], batch: PackedBatch) -> Sums:
        out, chosen, rejected = self._losses(policy, batch)
        pairs = float(chosen.numel())
        return {"loss": (float(out.losses.sum()), pairs), **pair_metrics(out, chosen, rejected)}


def pair_metrics(out: PreferenceLoss, chosen: Tensor, rejected: Tensor) -> Sums:
    """TRL's names. accuracies: share of pairs whose implicit reward margin is positive, ties half."""
    margins = out.chosen_rewards - out.rejected_rewards
    values = {
        "rewards/chosen": out.chosen_rewards,
        "rewards/rejected": out.rejected_rewards,
        "rewards/margins": margins,
        "rewards/accuracies": (margins > 0).float() + 0.5 * (margins == 0).float(),
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }
    return {name: (float(value.sum()), float(value.numel())) for name, value in values.items()}
