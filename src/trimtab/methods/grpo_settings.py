"""What GRPO takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from trimtab.advantages import ADVANTAGES
from trimtab.data.settings import (
    IN_MEMORY,
    ROWS,
    WEIGHT,
)
from trimtab.losses import policy_gradient as pg
from trimtab.methods.on_policy_settings import OnPolicySettings


class GRPOSettings(OnPolicySettings):
    """What GRPO takes beside all that on-policy training takes."""

    samples: int = Field(4, ge=2, le=IN_MEMORY)
    """Completions of each prompt; a baseline needs two."""
    objective: str = "leave_one_out"
    """How a group's rewards become advantages: a name of the table in advantages.py (docs/methods/grpo.md)."""
    normalisation: pg.Normalisation = "sum"
    """What a step's loss is divided by. sum: completions. sequences: completions, each a mean over its tokens.
    tokens: completion tokens. constant: completions × sampling.max_new_tokens."""
    ratio: pg.RatioLevel = "token"
    """Whether the ratio of the new policy to the one that sampled is each token's, or the whole sequence's."""
    clip_low: float | None = Field(0.2, gt=0, lt=1)
    """The ratio is clipped below 1 − clip_low; None: it is not. It matters from the second
    update on the same samples."""
    clip_high: float | None = Field(0.2, gt=0)
    """The ratio is clipped above 1 + clip_high; None: it is not."""
    kl: Literal["reward", "k2", "exact", "k3"] = "reward"
    """How the reference is kept near. reward: the KL is subtracted from the reward. k2, exact, k3: an estimator of
    it is added to the loss."""
    kl_coefficient: float = Field(0.1, ge=0, le=WEIGHT)
    """λ of Eq. 6: how dear it is to leave the reference."""
    rollouts: Literal["on_policy", "fixed"] = "on_policy"
    """fixed: fixed_prompts prompts are sampled once, before training, and trained on in epochs."""
    fixed_prompts: int = Field(50, gt=0, le=ROWS)
    """How many prompts rollouts fixed samples."""

    @field_validator("objective")
    @classmethod
    def _check_objective(cls, value: str) -> str:
        if value not in ADVANTAGES:
            raise ValueError(f"unknown objective {value!r}; known: {', '.join(ADVANTAGES)}")
        return value

    @model_validator(mode="after")
    def _check_kl_and_ratio(self) -> GRPOSettings:
        if self.rollouts == "fixed" and self.kl == "reward" and self.kl_coefficient:
            raise ValueError(
                "kl 'reward' is always 0 with fixed rollouts, which come from the reference itself; use k2 or exact"
            )
        if self.rollouts == "fixed" and self.updates_per_batch > 1:
            raise ValueError("fixed rollouts are reused by epochs; updates_per_batch is for on_policy")
        if self.kl == "exact" and self.kl_coefficient and self.lora is not None and self.sharding != "none":
            raise ValueError(
                "kl 'exact' with lora reads its reference off weights that sharding: fsdp2 has shared out: use k3"
            )
        if self.kl in ("k2", "exact") and self.normalisation == "sequences":
            raise ValueError(f"kl {self.kl!r} is of whole sequences, and has no mean over a sequence's tokens")
        if self.ratio == "sequence" and (self.normalisation == "sequences" or self._corrected):
            raise ValueError("ratio 'sequence' has no terms by token to weigh: use ratio 'token'")
        return self
