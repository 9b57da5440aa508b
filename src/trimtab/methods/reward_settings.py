"""What training a reward model takes."""

from __future__ import annotations

from pydantic import Field, model_validator

from trimtab.data.conditions import LengthInstruction
from trimtab.data.settings import (
    LEARNING_RATE,
    WEIGHT,
)
from trimtab.training.schedule import TrainingSettings


class ResponseConditioning(LengthInstruction):
    """Pairs of one completion under two prompts beside the usual ones (Rc-BT)."""

    balance: float = Field(1.0, ge=0, le=WEIGHT)
    """λ: weight of the rejected completion's comparison of prompts against the chosen one's."""


class RewardModelSettings(TrainingSettings):
    """What training a reward model takes beside all that training takes."""

    learning_rate: float = Field(1e-5, gt=0, le=LEARNING_RATE)
    margin: float | None = Field(None, gt=0, le=WEIGHT)
    """Times the difference of a pair's scores, subtracted from the difference of rewards; None: no margin."""
    center: float = Field(0.0, ge=0, le=WEIGHT)
    """Weight of (r_w + r_l)², which keeps rewards around 0 (Eisenstein et al. 2023)."""
    heads: int = Field(1, gt=0, le=1000)
    """Scores of a completion, of as many heads on one backbone, each trained on a bootstrap draw of the pairs; what
    they disagree on a reward of kind ensemble reads (docs/rewards.md)."""
    response_conditioned: ResponseConditioning | None = None
    """The response-conditioned model of Cai et al. 2025, against a taste for length; {} has its defaults."""

    @model_validator(mode="after")
    def _check_quantize(self) -> RewardModelSettings:
        if self.lora is not None and self.lora.quantize is not None:
            raise ValueError("lora.quantize is for language models; a reward model takes lora without it")
        return self
