"""What supervised fine-tuning takes; its length penalty and its length encoding too."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.data.settings import (
    IN_MEMORY,
    LEARNING_RATE,
    STEPS,
    TOKENS,
    WEIGHT,
    Settings,
)
from trimtab.losses.length_penalty import Estimator
from trimtab.losses.sft import Normalisation
from trimtab.training.schedule import TrainingSettings


class LengthPenaltySettings(Settings):
    """λ E[max(0, ℓ(ŷ) − ℓ(y))²], Eq. 3 of the course report."""

    weight: float = Field(0.001, gt=0, le=WEIGHT)
    """λ, the weight of the penalty beside SFT's loss."""
    scale: Literal["sequence", "token"] = "sequence"
    """What λ is measured against: a sequence's summed loss (the report's Eq. 2), or a token's mean loss.
    Whatever the normalisation, the two losses then keep their proportion."""
    interval: int = Field(100, gt=0, le=STEPS)
    """Optimizer steps from one penalty to the next."""
    estimator: Estimator = "stop_hazard"
    """How the penalty's gradient is estimated. stop_hazard: by where the model may end its own paths.
    score_function: by the samples' log-probabilities. literal: not at all, as the formula says."""
    samples: int | None = Field(None, gt=0, le=IN_MEMORY)
    """Samples of each prompt; None: 1 path for stop_hazard, 2 samples for score_function."""
    max_new_tokens: int = Field(350, gt=1, le=TOKENS)
    """Tokens of a sample at most."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The penalty's gradient is clipped to it before it is added."""

    @model_validator(mode="after")
    def _check_samples(self) -> LengthPenaltySettings:
        if self.estimator == "score_function" and self.samples == 1:
            raise ValueError("score_function needs at least two samples of each prompt for its baseline")
        return self

    @property
    def paths(self) -> int:
        """How many samples of each prompt the estimator takes."""
        return self.samples or (2 if self.estimator == "score_function" else 1)


class LengthEncodingSettings(Settings):
    """A countdown of the remaining tokens in the input, which makes completions end where they are asked to
    (docs/methods/length_encoding.md). `length_encoding: true` stands for these defaults."""

    strength: float = Field(0.3, gt=0, le=WEIGHT)
    """Norm of what is added to an embedding, in norms of the starting model's average embedding. More of it
    controls the length better, and disturbs what the model knows."""
    base: float = Field(10_000.0, gt=1, le=1e12)
    """Base of the wavelengths, 2π to 2π · base tokens."""
    target_length: int | None = Field(None, gt=0, le=TOKENS)
    """Tokens, end of turn included, where nobody asks for another length; None: the median of the training
    completions'. evaluation.decoding.target_length asks."""
    slack: float = Field(0.0, ge=0, le=WEIGHT)
    """0: completions end at the target. More: a target is an upper bound; in training the count starts at ℓ + u for
    a completion of ℓ tokens, u a whole number drawn anew in every step, uniform from 0 to slack · ℓ."""


class SFTSettings(TrainingSettings):
    """What supervised fine-tuning takes beside all that training takes."""

    learning_rate: float = Field(2e-5, gt=0, le=LEARNING_RATE)
    normalisation: Normalisation = "tokens"
    """What the loss is a mean over: the tokens of a step's completions, or its sequences, each a sum over
    its tokens."""
    length_penalty: LengthPenaltySettings | None = None
    """A penalty on answers longer than the chosen ones; None: none."""
    length_encoding: LengthEncodingSettings | None = None
    """A countdown in the input, by which answers end at a length you ask for. None: none, but for a model that has
    one already, which goes on with it."""

    carries_inputs: ClassVar[bool] = True

    @field_validator("length_encoding", mode="before")
    @classmethod
    def _check_length_encoding(cls, value: object) -> object:
        """true stands for the defaults, false for none."""
        return ({} if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check_length_penalty(self) -> SFTSettings:
        if self.length_penalty is not None and self.length_encoding is not None:
            raise ValueError("length_penalty and length_encoding exclude each other: choose one")
        return self

    @property
    def added_input(self) -> str | None:
        """The length encoding feeds the model a countdown beside token ids."""
        return "length_encoding" if self.length_encoding is not None else None


def with_length_penalty(settings: SFTSettings) -> SFTSettings:
    """The settings with a length penalty: their own, or its defaults. ValueError where they have an encoding."""
    if settings.length_encoding is not None:
        raise ValueError(
            "method 'sft_length' is SFT with the length penalty, which excludes length_encoding: give sft_length "
            "settings of its own without it"
        )
    return settings.model_copy(update={"length_penalty": settings.length_penalty or LengthPenaltySettings()})
