"""What distillation takes."""

from __future__ import annotations

from pydantic import Field, model_validator

from trimtab.data.settings import (
    LEARNING_RATE,
    ROWS,
    ModelSource,
)
from trimtab.rollout.sampler import Sampling
from trimtab.training.schedule import TrainingSettings


class DistillationSettings(TrainingSettings):
    """What distillation takes beside all that training takes."""

    learning_rate: float = Field(1e-5, gt=0, le=LEARNING_RATE)
    """The peak of the schedule."""
    teacher: ModelSource = None
    """A model of the same tokenizer, usually a larger one: a folder, a hub name, or sandbox:instruct."""
    beta: float = Field(0.5, ge=0, le=1)
    """Of the divergence: 0 is KL(teacher ‖ student), 1 the reverse KL, between them the Jensen-Shannon
    divergence."""
    own_share: float = Field(0.5, ge=0, le=1)
    """How many of the prompts, in expectation, are answered by the student itself; the others keep the data's
    completion. λ of the paper."""
    sampling: Sampling = Sampling()
    """How the student answers; at one temperature, as one completion is drawn."""
    validation_prompts: int = Field(64, ge=0, le=ROWS)
    """How many held-out prompts the student answers at each evaluation; 0 for none."""

    @model_validator(mode="after")
    def _check_sampling(self) -> DistillationSettings:
        if len(self.sampling.temperatures) > 1:
            raise ValueError("sampling.temperatures: one sample is drawn of each prompt, so name one temperature")
        return self
