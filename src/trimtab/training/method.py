"""What the loop asks of a method, and a method of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch

Sums = dict[str, tuple[float, float]]
"""Metrics of a pass: name -> (sum, weight); their quotient over the whole step is logged."""


def share_ahead(margins: Tensor) -> tuple[float, float]:
    """How many margins are positive, ties half; of how many."""
    return float(((margins > 0).float() + 0.5 * (margins == 0).float()).sum()), float(margins.numel())


class Method(Protocol):
    """What is particular to a method; see methods/sft.py for the shortest one."""

    best_metric: str
    best_is: Literal["highest", "lowest"]

    def step_groups(self, groups: Sequence[CompletionGroup], step: int) -> Sequence[CompletionGroup]:
        """The groups to train on in this step, given the data's: the same, or fresh rollouts."""

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        """What the loss of a whole optimizer step is divided by."""

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        """A pass's share of the step's loss, with gradient, and its metrics."""

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        """Metrics on validation data, without the prefix `eval_`."""

    steps_per_batch: int
    """Optimizer steps that are taken on the same groups of the data."""

    rates: Mapping[str, float]
    """Part of the policy -> its learning rate as a multiple of the setting's."""

    def extra(self, groups: Sequence[CompletionGroup], step: int) -> ExtraLoss | None:
        """A second loss of this step, with groups of its own, whose gradient is clipped apart."""

    def step_metrics(self) -> Sums:
        """Metrics of the step's groups, known before any pass."""

    def rows(self) -> list[dict[str, Any]]:
        """What the step sampled, for completions.jsonl."""

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint must keep of the method, as JSON."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""


@dataclass(frozen=True)
class ExtraLoss:
    """A loss that is added to the step's, after its gradient was clipped to its own norm. name: of its metrics."""

    name: str
    groups: Sequence[CompletionGroup]
    loss: Callable[[Callable[..., Any], PackedBatch, float], tuple[Tensor, Sums]]
    total: float
    max_grad_norm: float


class OfflineMethod:
    """The part of a method that only trains on the data's own groups: nothing is sampled, nothing is kept."""

    steps_per_batch: int = 1
    rates: Mapping[str, float] = MappingProxyType({})

    def step_groups(self, groups: Sequence[CompletionGroup], step: int) -> Sequence[CompletionGroup]:
        return groups

    def extra(self, groups: Sequence[CompletionGroup], step: int) -> ExtraLoss | None:
        return None

    def step_metrics(self) -> Sums:
        return {}

    def rows(self) -> list[dict[str, Any]]:
        return []

    def state(self) -> Mapping[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        return
