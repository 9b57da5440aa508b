"""What preference training takes."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from trimtab.data.conditions import LengthInstruction, ScoreCondition
from trimtab.data.settings import (
    LEARNING_RATE,
    WEIGHT,
)
from trimtab.losses.table import (
    LOSSES,
    Level,
    check_names,
    check_settings,
    level_of,
    needs_length_instructions,
    parameters,
)
from trimtab.training.schedule import TrainingSettings


class DPOSettings(TrainingSettings):
    """Training on preferences: DPO and its relatives."""

    learning_rate: float = Field(5e-6, gt=0, le=LEARNING_RATE)
    loss: str | dict[str, Annotated[float, Field(le=WEIGHT)]] = Field(
        "dpo", description=f"Losses: {', '.join(LOSSES)}."
    )
    """What is minimised: a loss by name, or several with their weights, such as {dpo: 1.0, sft: 0.1}."""
    beta: float = Field(0.1, gt=0, le=WEIGHT)
    """How dear it is to leave the reference: less of it moves further. What it multiplies is the loss's own affair
    (docs/methods/dpo.md)."""
    loss_options: dict[str, Annotated[float, Field(ge=-WEIGHT, le=WEIGHT)]] = Field(default_factory=dict)
    """What the losses take besides: label_smoothing, gamma, alpha, … (docs/methods/dpo.md)."""
    condition: ScoreCondition | None = None
    """Reward-augmented data: each pair under both its scores; the trained model is asked for the best."""
    length_instruction: LengthInstruction | None = None
    """How rc_dpo's prompts ask for a length; None: as LengthInstruction has it."""

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        names = [value] if isinstance(value, str) else list(value)
        if not names:
            raise ValueError(f"name at least one of {', '.join(LOSSES)}")
        check_names(names)
        if len({level_of(name) for name in names}) > 1:
            raise ValueError(f"{', '.join(names)} are not all of pairs, and cannot be added up")
        return value

    @model_validator(mode="after")
    def _check_loss_options(self) -> DPOSettings:
        numbers = [*self.weights.values(), *self.loss_options.values()]
        if not all(map(math.isfinite, numbers)) or min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError("loss: weights and options must be finite, weights not negative and one above 0")
        check_settings(list(self.weights), self.loss_options)
        conditioned = any(map(needs_length_instructions, self.weights))
        if self.length_instruction is not None and not conditioned:
            raise ValueError("length_instruction: only the loss rc_dpo asks for lengths")
        if self.condition is not None and (conditioned or self.level != "pair"):
            raise ValueError("condition: needs a loss of plain pairs, which rc_dpo, ranking and kto are not")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Loss → its weight in the sum."""
        return {self.loss: 1.0} if isinstance(self.loss, str) else self.loss

    @property
    def level(self) -> Level:
        """What its losses are of: pairs, rankings of a group, or single completions."""
        return level_of(next(iter(self.weights)))

    @property
    def inputs(self) -> frozenset[str]:
        """The names of the inputs that its losses ask for."""
        return frozenset().union(*(parameters(name)[0] for name in self.weights))
