"""What an optimizer step takes: which groups, at which learning rate, of how many steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from trimtab.data.groups import CompletionGroup
from trimtab.data.settings import BUDGET, IN_MEMORY, LEARNING_RATE, ROWS, STEPS, TOKENS, WEIGHT, Seed, distinct
from trimtab.models.settings import ModelSettings
from trimtab.training.order_settings import OrderSettings

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]
"""Programs that show runs; accelerate knows how each is told."""
JUDGED = "judge"
"""The metric of validation answers that a judge scored, without eval_."""
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(ModelSettings):
    """What every method's training takes. Lengths of time are in optimizer steps."""

    learning_rate: float = Field(gt=0, le=LEARNING_RATE)
    """The learning rate at its peak, after the warmup."""
    batch_size: int = Field(16, gt=0, le=IN_MEMORY)
    """Completion groups of a batch."""
    accumulation: int = Field(1, gt=0, le=IN_MEMORY)
    """Batches of an optimizer step, which so takes batch_size × accumulation groups."""
    epochs: float = Field(1.0, gt=0, le=10**6)
    """How often every row is seen; a part of one will do."""
    max_steps: int | None = Field(None, gt=0, le=STEPS)
    """Optimizer steps of the whole training; it overrides epochs."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after its warmup: linear and cosine to 0, constant not at all."""
    warmup_steps: int = Field(10, ge=0, le=STEPS)
    """Optimizer steps in which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0, le=WEIGHT)
    """How fast weights decay: 0 is Adam, more is AdamW (matrices only)."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit: Adam's moments are held in eight bits, 2 bytes a weight instead of 8; needs bitsandbytes."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Adam's decay of its two moments."""
    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    """Adam's ε, beside the root of its second moment."""
    max_grad_norm: float = Field(1.0, gt=0)
    """A longer gradient is scaled down to this norm."""
    max_skipped: int = Field(10, ge=0, le=STEPS)
    """Steps with a broken loss or gradient are not taken; one more than so many ends the run."""
    explosion: float | None = Field(100.0, gt=1)
    """A gradient this many times the median norm of the last steps is broken too; None: it never is."""
    token_budget: int | None = Field(None, gt=0, le=BUDGET)
    """Packed tokens of a pass: memory and speed, never results. None: 1,024 on a CPU, where more take memory and
    save no time; 4,096 on a GPU."""
    order: OrderSettings | None = None
    """A curriculum: easy rows before hard ones; None: every epoch in a random order."""
    seed: Seed = 42
    """The data's order, samples and new weights are drawn from it."""
    logging_interval: int = Field(10, gt=0, le=STEPS)
    """Optimizer steps from one line of metrics to the next."""
    evaluation_interval: int | None = Field(None, gt=0, le=STEPS)
    """Optimizer steps from one evaluation to the next; None: ten times in a run."""
    sample_interval: int | None = Field(None, gt=0, le=STEPS)
    """Optimizer steps from one look at samples to the next; None: no samples while training."""
    checkpoint_interval: int | None = Field(None, gt=0, le=STEPS)
    """Optimizer steps from one checkpoint to the next; None: with every evaluation."""
    sharding: Literal["none", "fsdp2"] = "none"
    """fsdp2: several processes share weights, gradients and moments out, and gather a layer's where it computes.
    none: each holds all of them. One process always does."""
    trackers: tuple[TrackerName, ...] = ()
    """Programs that are told every line of metrics while it is written: tensorboard, trackio, wandb, mlflow."""
    patience: int | None = Field(None, gt=0, le=STEPS)
    """Stop after so many steps without a better best_metric; None: never."""
    best_metric: str | None = None
    """Which evaluation metric picks the checkpoint that is kept; None: the method's own. `step`, highest: the
    last one. `judge`, highest: the one whose answers to validation prompts the study's judge scores best."""
    best_is: Literal["highest", "lowest"] | None = None
    """Whether the highest or the lowest best_metric is best; goes with best_metric."""

    judged_prompts: int = Field(64, gt=0, le=ROWS)
    """With best_metric: judge, how many validation prompts are answered at each evaluation, greedily. 64 tell apart
    what differs by a third of the scores' spread, 256 by a sixth."""
    judged_tokens: int = Field(128, gt=0, le=TOKENS)
    """With best_metric: judge, the longest such answer."""

    carries_inputs: ClassVar[bool] = False
    """Whether the method goes on with what a model is fed beside token ids (models/inputs.py)."""

    @model_validator(mode="after")
    def _check_best_metric(self) -> TrainingSettings:
        if (self.best_metric is None) != (self.best_is is None):
            raise ValueError("best_metric and best_is (highest or lowest) go together")
        return self

    @model_validator(mode="after")
    def _check_sharding(self) -> TrainingSettings:
        if self.sharding != "none" and self.optimizer != "adamw":
            raise ValueError("sharding: fsdp2 goes with optimizer: adamw, whose moments it shares out")
        if self.sharding != "none" and self.lora is not None and self.lora.quantize is not None:
            raise ValueError("sharding: fsdp2 does not share four-bit weights out: leave lora.quantize or it out")
        return self

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, value: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        return distinct(value)

    @property
    def chosen_by_judge(self) -> bool:
        """Whether the checkpoint that is kept is the judge's choice."""
        return (self.best_metric or "").removeprefix("eval_") == JUDGED

    @property
    def added_input(self) -> str | None:
        """The setting that has the model fed more than token ids from then on; None: there is none."""
        return None

    @property
    def pass_tokens(self) -> int:
        """The token budget, on this machine where the setting leaves it open."""
        from trimtab.devices import on_cpu  # loads PyTorch

        return self.token_budget or (1024 if on_cpu() else 4096)

    @property
    def step_groups(self) -> int:
        """Completion groups of one optimizer step."""
        return self.batch_size * self.accumulation


@lru_cache(maxsize=4)
def data_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The permutation of an epoch: a function of seed and epoch, so that resuming needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def groups_of_step(groups: Sequence[CompletionGroup], step: int, size: int, seed: int) -> list[CompletionGroup]:
    """The groups of an optimizer step (counted from 0): epochs lie end to end, no row is left out."""
    picked = []
    for place in range(step * size, (step + 1) * size):
        epoch, offset = divmod(place, len(groups))
        picked.append((epoch, offset))
    orders = {epoch: data_order(len(groups), seed, epoch) for epoch, _ in picked}
    return [groups[int(orders[epoch][offset])] for epoch, offset in picked]


def total_steps(settings: TrainingSettings, rows: int) -> int:
    """Optimizer steps of a run over so many rows: max_steps, or as many as the epochs take."""
    return settings.max_steps or max(1, math.ceil(settings.epochs * rows / settings.step_groups))


def learning_rate_factor(settings: TrainingSettings, step: int, steps: int) -> float:
    """Share of the peak learning rate that step (counted from 0) is taken with.

    Warmup rises linearly from 1/(warmup+1); linear and cosine fall to reach 0 only after the last step.
    """
    warmup = min(settings.warmup_steps, steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "constant":
        return 1.0
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
