"""What methods that train on samples of their own take."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from trimtab.data.settings import (
    IN_MEMORY,
    LEARNING_RATE,
    ROWS,
    STEPS,
    WEIGHT,
)
from trimtab.rewards.settings import Rewards
from trimtab.rollout.sampler import Sampling
from trimtab.training.schedule import TrainingSettings


class OnPolicySettings(TrainingSettings):
    """What a method that trains on samples of its own takes beside all that training takes."""

    learning_rate: float = Field(5e-6, gt=0, le=LEARNING_RATE)
    batch_size: int = Field(8, gt=0, le=IN_MEMORY)
    """Prompts of a batch."""
    samples: int = Field(gt=0, le=IN_MEMORY)
    """Completions of each prompt."""
    rewards: Rewards = ()
    """What is optimised: the weighted sum of these."""
    updates_per_batch: int = Field(1, gt=0, le=STEPS)
    """Optimizer steps taken on the same samples."""
    kl_coefficient: float = Field(ge=0, le=WEIGHT)
    """λ, or β, of the KL to the reference: how dear it is to leave it."""
    correction: Literal["none", "token", "tempered"] = "token"
    """What is corrected of temperatures ≠ 1, and of another engine's arithmetic. none: as the report does;
    token: truncated weights; tempered: π_T is optimised, and an engine's samples are weighed by token too."""
    weight_cap: float = Field(2.0, gt=0)
    """No token weighs more than this, where correction weighs tokens."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    mask_cut: bool = False
    """Whether completions cut at the cap are left out of the loss."""
    validation_prompts: int = Field(64, ge=0, le=ROWS)
    """How many held-out prompts are sampled at each evaluation; 0 for none."""

    carries_inputs: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if any(t <= 0 for t in self.sampling.temperatures):
            raise ValueError("training samples need temperatures above 0: greedy ones have no gradient")
        return self

    @property
    def _corrected(self) -> bool:
        """Whether tokens are weighed by π/μ: where the sampler's distribution μ is not the one optimised."""
        if self.sampling.engine != "transformers":
            return self.correction != "none"
        return self.correction == "token" and any(t != 1 for t in self.sampling.temperatures)
