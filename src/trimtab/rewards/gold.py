"""The sandbox's own judge, which knows the truth: sandbox/judge.py makes it."""

from __future__ import annotations

from typing import ClassVar, Literal

from trimtab.rewards.base import Reward
from trimtab.rewards.settings_base import RewardContext, RewardSettings, ready_made


class GoldSettings(RewardSettings):
    """The sandbox's judge."""

    kind: Literal["gold"]
    """The sandbox's judge."""
    needs_sandbox: ClassVar[bool] = True

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: the kind alone."""
        return None if name else {}

    @property
    def what(self) -> str:
        """For reports: what scores."""
        return "the sandbox's gold judge"

    def make(self, context: RewardContext) -> Reward:
        """The judge that the sandbox has made; TrimtabError outside of it."""
        return ready_made(self, context, "the sandbox")
