"""The reward model that the study itself trains, on its own preferences: a stage makes it."""

from __future__ import annotations

from typing import ClassVar, Literal

from trimtab.rewards.base import Reward
from trimtab.rewards.settings_base import RewardContext, RewardSettings, ready_made


class TrainedSettings(RewardSettings):
    """The reward model that the study trains; never the judge, but perhaps a second one."""

    kind: Literal["trained"]
    """The reward model that the study trains; never the judge, but perhaps a second one."""
    needs_training: ClassVar[bool] = True

    @property
    def what(self) -> str:
        """For reports: what scores."""
        return "a reward model trained on this study's preferences"

    def make(self, context: RewardContext) -> Reward:
        """The model that the stage before has trained; TrimtabError where there was none."""
        return ready_made(self, context, "a stage that trains a reward model")
