"""One optimizer step, as a method prepares it and the loop takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.json_types import JsonObject

Sums = dict[str, tuple[float, float]]
"""Metrics of a pass: name → (sum, weight); their quotient over the whole step is logged."""
Forward: TypeAlias = Callable[..., Any]
"""A model, or what wraps it: batch → a PolicyOutput (models/policy.py), or a reward model's scores [C]."""
PassLoss = Callable[[Forward, PackedBatch, float], tuple[Tensor, Sums]]
"""(model, batch, total) → a pass's share of the step's loss, with gradient, and its metrics."""


@dataclass(frozen=True)
class ExtraLoss:
    """A second loss of a step, with groups of its own.

    Its gradient is clipped to max_grad_norm by itself and then added to the step's. name: of its metrics.
    """

    name: str
    groups: Sequence[CompletionGroup]
    loss: PassLoss
    total: float
    max_grad_norm: float


@dataclass(frozen=True)
class Step:
    """What one optimizer step trains on, and by which loss.

    groups: everything that the loss needs of a group travels in its columns. total: what the loss of the whole step
    is divided by, over all passes and processes. metrics: what is known before any pass. samples: rows for
    completions.jsonl, where completions were drawn for this step.
    """

    groups: Sequence[CompletionGroup]
    total: float
    loss: PassLoss
    metrics: Sums = field(default_factory=dict)
    extra: ExtraLoss | None = None
    samples: Sequence[JsonObject] = ()


class Method(Protocol):
    """What the loop asks of a method. methods/sft.py has the shortest one."""

    best_metric: str
    """The validation metric that chooses which weights are kept; best_is says in which direction."""
    best_is: Literal["highest", "lowest"]
    steps_per_batch: int
    """Optimizer steps that are taken on the same groups of the data."""
    rates: Mapping[str, float]
    """Part of the policy → its learning rate as a multiple of the setting's."""
    runs_policy: bool
    """Whether `prepare` runs the policy, which then has all its weights there, in every process."""

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """The step, counted from 0, given the data's groups for it: the same, or fresh samples of their prompts."""

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Metrics on validation data, without the prefix `eval_`."""

    def state(self) -> JsonObject:
        """What a checkpoint must keep of the method, as JSON."""

    def load_state(self, state: JsonObject) -> None:
        """Takes back what a checkpoint kept."""


def share_ahead(margins: Tensor) -> tuple[float, float]:
    """How many margins are positive, ties counted half, and how many there are. margins: of any shape."""
    return float(((margins > 0).float() + 0.5 * (margins == 0).float()).sum()), float(margins.numel())
