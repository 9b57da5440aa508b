"""The sandbox's own judge, which knows the truth: sandbox/judge.py makes it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from trimtab.rewards.base import Reward
from trimtab.rewards.settings_base import Making, RewardSettings, ready_made


class GoldSettings(RewardSettings):
    """The sandbox's judge."""

    kind: Literal["gold"]
    """The sandbox's judge."""
    needs_sandbox: ClassVar[bool] = True

    @classmethod
    def read_name(cls, name: str) -> dict[str, Any] | None:
        return None if name else {}

    @property
    def what(self) -> str:
        return "the sandbox's gold judge"

    def make(self, making: Making) -> Reward:
        return ready_made(self, making, "the sandbox")
