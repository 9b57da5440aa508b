"""What PPO takes."""

from __future__ import annotations

from pydantic import Field

from trimtab.data.settings import (
    IN_MEMORY,
    LEARNING_RATE,
    STEPS,
    WEIGHT,
)
from trimtab.methods.on_policy_settings import OnPolicySettings


class PPOSettings(OnPolicySettings):
    """What PPO takes beside all that on-policy training takes."""

    samples: int = Field(1, gt=0, le=IN_MEMORY)
    """Completions of each prompt: the value is the baseline, so one will do."""
    updates_per_batch: int = Field(4, gt=0, le=STEPS)
    kl_coefficient: float = Field(0.05, ge=0, le=WEIGHT)
    """β of the KL penalty in each token's reward."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of a later token's reward."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantages; 1 does not lean on the value at all."""
    clip: float | None = Field(0.2, gt=0, lt=1)
    """ε of the policy's ratio."""
    value_clip: float | None = Field(0.2, gt=0)
    """How far the value moves on one batch at most, in units of the reward."""
    value_coefficient: float = Field(0.1, ge=0, le=WEIGHT)
    """Weight of the value's loss beside the policy's."""
    value_learning_rate: float | None = Field(None, gt=0, le=LEARNING_RATE)
    """The learning rate of the value head, on the same schedule; None: ten times learning_rate, as it starts
    from nothing."""
    whiten: bool = True
    """Advantages of a batch, all processes together, to mean 0 and deviation 1."""
