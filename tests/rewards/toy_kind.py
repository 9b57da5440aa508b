"""A kind of reward as somebody would add one: this file in rewards/, and one row of rewards/kinds.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trimtab.rewards.base import Prompt, Reward, Scored
from trimtab.rewards.settings_base import RewardContext, RewardSettings

ROW = '    "brevity": Kind("brevity.BrevitySettings", "brevity:WORDS"),\n'


class BrevitySettings(RewardSettings):
    """How many words are left of a number."""

    kind: Literal["brevity"]
    """How many words are left of a number."""
    words: int = 10
    """The number."""

    @classmethod
    def read_name(cls, name: str) -> dict[str, Any] | None:
        return {"words": name.removeprefix(":")} if name else {}

    @property
    def what(self) -> str:
        return f"words left of {self.words}"

    def make(self, context: RewardContext) -> Reward:
        return Brevity(self.words)


class Brevity(Reward):
    def __init__(self, words: int) -> None:
        self.words, self.name, self.signature = words, "brevity", f"brevity|{words}"

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[Scored]:
        return [Scored(float(self.words - len(text.split()))) for text in completions]
