"""Supervised fine-tuning on the chosen completions. Ouyang et al. 2022.

Groups of one completion. The loss is losses/sft.py's, by tokens or by sequences of the whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch, total_completion_tokens
from trimtab.losses.sft import Normalisation, sft
from trimtab.training.loop import Sums
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import StageMethod


class SFTSettings(TrainingSettings):
    learning_rate: float = Field(2e-5, gt=0)
    normalisation: Normalisation = "tokens"


class SFT(StageMethod):
    best_metric = "loss"
    best_is: Literal["highest", "lowest"] = "lowest"
    completions = "first"
    version = 1

    settings: SFTSettings

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        return total_completion_tokens(groups) if self.settings.normalisation == "tokens" else len(groups)

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        return sft(policy(batch).logps, total), {}

    def evaluate_pass(self, policy: Callable[..., Any], batch: PackedBatch) -> Sums:
        """loss: nats a token over all validation completions, whatever normalisation training has."""
        out = policy(batch, entropy=True)
        tokens = float(out.logps.numel())
        return {"loss": (float(-out.logps.sum()), tokens), "entropy": (float(out.entropy.sum()), tokens)}
