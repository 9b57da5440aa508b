"""The settings of an ensemble of rewards."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from trimtab.data.settings import WEIGHT
from trimtab.errors import TrimtabError
from trimtab.rewards.base import Reward
from trimtab.rewards.settings_base import NamedRewardSettings, RewardContext, RewardSettings

TRAINED = "trained"


class EnsembleSettings(NamedRewardSettings):
    """Several rewards as one: their mean less k times their spread."""

    kind: Literal["ensemble"]
    """Several rewards, or the heads of one reward model."""
    members: tuple[str, ...] = ()
    """Short names of rewards, as --reward takes them: folders of reward models, file.py:function, and `trained` for
    the one that the study trains. A reward model of several heads counts as so many members."""
    k: float = Field(1.0, ge=0, le=WEIGHT)
    """How much of the spread is subtracted from the mean; 0: none."""
    combine: Literal["mean", "min"] = "mean"
    """mean: less k times the spread. min: the lowest score, whatever k."""
    spread: Literal["std", "variance"] = "std"
    """What is subtracted: the standard deviation over the members, or their variance as Coste et al. 2024 do."""
    standardise: bool = True
    """Whether training puts the members on one scale first, by their scores of the starting model's samples; a
    judge takes them as they come."""
    needed: ClassVar[tuple[str, ...]] = ("members",)

    @field_validator("members")
    @classmethod
    def _check_members(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for i, name in enumerate(value) if name in value[:i]]:
            raise ValueError(f"{twice[0]!r} is there twice")
        for name in value:
            try:
                member = _named(name)
            except TrimtabError as error:
                raise ValueError(str(error)) from None
            if member.compares:
                raise ValueError(f"{name!r} compares two answers: several such judges are a jury")
        return value

    @property
    def of_members(self) -> list[RewardSettings]:
        """The settings of each member."""
        return [_named(name) for name in self.members]

    @property
    def what(self) -> str:
        """For reports: what scores."""
        return f"an ensemble of {', '.join(self.members)}"

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Its members and how they are combined."""
        return (self.kind, *self.members, self.combine, str(self.k))

    @property
    def needs_training(self) -> bool:  # type: ignore[override]
        """Whether the study trains one of its members first."""
        return TRAINED in self.members

    @property
    def needs_sandbox(self) -> bool:  # type: ignore[override]
        """Whether a member knows the sandbox's prompts only."""
        return any(member.needs_sandbox for member in self.of_members)

    def check(self) -> None:
        """TrimtabError where a member is not there."""
        for member in self.of_members:
            member.check()

    def make(self, context: RewardContext) -> Reward:
        """The ensemble. TrimtabError where a member can't be made, or there is one score only."""
        from trimtab.rewards.ensemble import EnsembleReward

        members = [member.make(context) for member in self.of_members]
        return EnsembleReward(
            members, self.k, combine=self.combine, spread=self.spread, standardise=self.standardise,
            name=self.name or "ensemble",
        )  # fmt: skip


def _named(name: str) -> RewardSettings:
    """A member's settings. TrimtabError where the name is none of a reward, or that of another ensemble."""
    from trimtab.rewards.settings import CLASSES, reward_named  # which has this kind in its table

    if name == TRAINED:
        return CLASSES[TRAINED].model_validate({"kind": TRAINED})
    return reward_named(name)
