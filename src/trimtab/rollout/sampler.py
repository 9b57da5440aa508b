"""What samples from the policy: the protocol, its settings and what a sample is.

logps are of the distribution that the token was drawn from: at the sample's temperature, renormalised
without the excluded tokens. policy_logps are the policy's own, at temperature 1 with nothing excluded;
the two are equal at temperature 1 without exclusions. At temperature 0 that distribution is a point, and
logps are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

Finish = Literal["stop", "cap", "survival"]


class Sampling(BaseModel):
    """How the policy is sampled. There is no top-p: a truncated distribution has no honest log-probability
    ratio, so it is refused in training."""

    model_config = ConfigDict(extra="forbid")

    temperatures: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field((1.0,), min_length=1)
    """Cycled through a prompt's samples: the i-th has temperatures[i % len]. 0 is greedy."""
    max_new_tokens: int = Field(256, gt=0)
    batch_size: int = Field(128, gt=0)
    """Samples decoded together: memory and speed, never what is drawn (up to rounding)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion: its stop token is its last where finish is "stop".

    finish "cap": max_new_tokens reached. "survival": the excluded tokens' mass had all but ended it.
    """

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    policy_logps: tuple[float, ...]
    finish: Finish
    temperature: float


class Sampler(Protocol):
    """Draws k samples for each prompt; the same seed draws the same."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        sampling: Sampling,
        *,
        seed: int,
        stops: Sequence[int],
        excluded: Sequence[int] = (),
        survival: float = 0.0,
        places: Sequence[int] | None = None,
    ) -> list[list[Sample]]:
        """prompts: token ids. Returns k samples for each, in the prompts' order.

        places: of the prompts among all that this seed is for, where processes share them out; draws depend
        on them, and so not on how many processes there are.

        stops: tokens that end a sample. excluded: tokens never drawn; the others are renormalised.
        survival: a sample also ends once the product over its tokens of (1 - mass of the excluded tokens)
        is below this (a path of the stop_hazard estimator; see docs/methods/length_penalty.md).
        """
        ...
