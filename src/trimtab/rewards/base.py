"""What a reward is: prompts and completions in, a score or a reason for each out.

A failure is None with its reason, never a number: a failed call that counted as 0 would beat every
completion of a reward whose scores are negative.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.data.records import Message
from trimtab.json_types import JsonValue

Prompt = str | tuple[Message, ...]
Columns = Mapping[str, Sequence[object]]
"""The data's other columns by name: one value for each completion."""
OPPONENT_COLUMN = "opponent_completion"
"""The column that a judge of pairs reads: the other answer to each prompt."""
LARGEST = 1e18
"""Of a score: its square still fits a float32, which training computes with, and so do sums of such."""


@dataclass(frozen=True, slots=True)
class Scored:
    """score: None where the reward failed, and then reason says why. breakdown: the parts of the score."""

    score: float | None
    reason: str | None = None
    breakdown: Mapping[str, JsonValue] = field(default_factory=dict)


class Reward(ABC):
    """Scores completions. name: short, for logs; signature: everything that the scores depend on."""

    name: str
    signature: str
    heads: int = 1
    """How many scores it has for a completion: more than one for a reward model of several heads, whose breakdown
    has them as head_0, head_1, …; its score is their mean."""
    compares: bool = False
    """Whether it sees two answers: the completion, and the one in OPPONENT_COLUMN. Its score is the share that the
    completion wins, 0 to 1."""
    asks_server: bool = False
    """Whether a score that is missing may be had when it is asked for later."""

    @abstractmethod
    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order.

        completion_ids: the policy's tokens of each, where there are any.
        """

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """The scores alone."""
        return [scored.score for scored in self.scored(prompts, completions)]

    def reads(self, column: str) -> bool:
        """Whether its scores may depend on a column of the data."""
        return False

    @property
    def wants_scale(self) -> bool:
        """Whether training is to show it scores of the starting model's samples first, by `set_scale`."""
        return False

    def set_scale(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Takes its scale from these samples, where it wants one."""
        return

    def again(self) -> Reward:
        """The same reward, for which nothing that was scored before counts: what it says when asked once more."""
        return self

    def take_metrics(self) -> dict[str, float]:
        """Numbers of the reward's own for the log, since the last call."""
        return {}
