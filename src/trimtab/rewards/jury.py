"""Several judges of pairs as one: a jury, whose preference is the mean of its members'.

A panel of judges of different families has less of each one's preferences (Verga et al. 2024, arXiv 2404.18796).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.rewards.base import OPPONENT_COLUMN, Columns, Prompt, Reward, Scored
from trimtab.rewards.pairwise import PairwiseSettings
from trimtab.rewards.settings_base import NamedRewardSettings, RewardContext

MEMBERS = "members"
"""In a breakdown: each member's preference, by its name."""


class JurySettings(NamedRewardSettings):
    """Several judges of pairs as one: a judge only."""

    kind: Literal["jury"]
    """Several judges of pairs as one: a judge only."""
    members: tuple[PairwiseSettings, ...] = Field((), min_length=2)
    """The judges, each as a judge of kind pairwise. The preference is their mean; a pair that one of them has no
    verdict for has none."""
    is_remote: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    needed: ClassVar[tuple[str, ...]] = ("members",)

    @field_validator("members")
    @classmethod
    def _check_members(cls, value: tuple[PairwiseSettings, ...]) -> tuple[PairwiseSettings, ...]:
        names = [member.name or member.model for member in value]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"two judges are called {twice[0]}: give one of them a name")
        return value

    @property
    def what(self) -> str:
        """Its members."""
        return f"a jury of {', '.join(str(member.name or member.model) for member in self.members)}, in pairs"

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Its members."""
        return (self.kind, *(part for member in self.members for part in member.identity))

    @property
    def model_names(self) -> tuple[str, ...]:
        """Of all members."""
        return tuple(name for member in self.members for name in member.model_names)

    @property
    def calls(self) -> int:
        """Of all members."""
        return sum(member.calls for member in self.members)

    def check(self) -> None:
        """TrimtabError for a bad address, a key or a rubric that is not there."""
        self.make(RewardContext({}))

    def make(self, context: RewardContext) -> Reward:
        """The jury. TrimtabError where a member can't be made."""
        return JuryJudge([member.make(context) for member in self.members], self.name or "jury")


class JuryJudge(Reward):
    """The mean preference of its members, judges of pairs. The breakdown has each member's preference, and the mean
    shares of the completion shown first and second."""

    compares, asks_server = True, True

    def __init__(self, members: Sequence[Reward], name: str = "jury") -> None:
        self.members, self.name = list(members), name
        self.signature = f"jury|{'|'.join(member.signature for member in self.members)}"

    def again(self) -> JuryJudge:
        """See Reward.again."""
        return JuryJudge([member.again() for member in self.members], self.name)

    def reads(self, column: str) -> bool:
        """The other answer."""
        return column == OPPONENT_COLUMN

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """A preference for each completion, in order; none for one that a member has none for."""
        found = []
        for member in self.members:
            scores = member.scored(prompts, completions, columns=columns)
            if len(scores) != len(completions):
                raise TrimtabError(f"judge {member.name}: {len(scores)} verdicts for {len(completions)} pairs")
            found.append(scores)
        return [self._joined(row) for row in zip(*found, strict=True)]

    def _joined(self, row: Sequence[Scored]) -> Scored:
        by_member = {member.name: scored for member, scored in zip(self.members, row, strict=True)}
        parts: JsonObject = {MEMBERS: {name: scored.score for name, scored in by_member.items()}}
        if all(scored.breakdown.get("equal") for scored in row):
            return Scored(0.5, breakdown={"equal": True})
        for place in ("first", "second"):
            shares = [share for scored in row if (share := scored.breakdown.get(place)) is not None]
            parts[place] = statistics.fmean(shares) if len(shares) == len(row) else None
        if lacking := [f"{n}: {s.reason or 'no verdict'}" for n, s in by_member.items() if s.score is None]:
            return Scored(None, "; ".join(lacking), parts)
        flips = [bool(scored.breakdown.get("flipped")) for scored in row]
        parts["flipped"] = sum(flips) / len(flips)
        return Scored(statistics.fmean(s.score for s in row if s.score is not None), breakdown=parts)
