"""What a reward is: prompts and completions in, a score or a reason for each out.

A failure is None with its reason, never a number: a failed call that counted as 0 would beat every
completion of a reward whose scores are negative.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.data.records import Message

Prompt = str | tuple[Message, ...]
LARGEST = 1e18
"""Of a score: its square still fits a float32, which training computes with, and so do sums of such."""


@dataclass(frozen=True, slots=True)
class Scored:
    """score: None where the reward failed, and then reason says why. breakdown: the parts of the score."""

    score: float | None
    reason: str | None = None
    breakdown: Mapping[str, Any] = field(default_factory=dict)


class Reward(ABC):
    """Scores completions. name: short, for logs; signature: everything that the scores depend on."""

    name: str
    signature: str

    @abstractmethod
    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order.

        completion_ids: the policy's tokens of each, where there are any. columns: the data's other
        columns, one value a completion.
        """

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """The scores alone."""
        return [one.score for one in self.scored(prompts, completions)]

    def reads(self, column: str) -> bool:
        """Whether its scores may depend on a column of the data."""
        return False

    def take_metrics(self) -> dict[str, float]:
        """Numbers of the reward's own for the log, since the last call."""
        return {}
