"""1 for a completion whose final number is the row's answer, else 0: a reward that can be checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.settings_base import RewardContext, RewardSettings

RUN = re.compile(r"(?:(?<![\w.,)])[-−])?\d[\d.,]*")
"""What is written as one number, with what ends a sentence behind it."""
NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def final_number(text: str) -> Decimal | None:
    """The last number of a text, thousands separated by commas or not; None where there is none, or where it is
    written otherwise (1,23 or 1.2.3). A minus behind a digit, a letter or a bracket subtracts."""
    runs = RUN.findall(text)
    last = runs[-1].rstrip(".,") if runs else ""
    if not NUMBER.fullmatch(last):
        return None
    return Decimal(last.replace("−", "-").replace(",", ""))


class ExactAnswerReward(Reward):
    """Compares the last number of each completion with the row's answer, exactly. column: which has it."""

    def __init__(self, column: str = "answer") -> None:
        self.column, self.name = column, "exact_answer"
        self.signature = f"exact_answer|1|{column}"

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """1 or 0 for each completion; no score for a row whose column is no number."""
        answers = (columns or {}).get(self.column, [None] * len(completions))
        return [self._score(text, answer) for text, answer in zip(completions, answers, strict=True)]

    def _score(self, text: str, answer: object) -> Scored:
        right = None if isinstance(answer, bool) or answer is None else final_number(str(answer))
        if right is None:
            return Scored(None, f"no number in column {self.column!r}")
        return Scored(float(final_number(text) == right))

    def reads(self, column: str) -> bool:
        """The answer's alone."""
        return column == self.column


class ExactAnswerSettings(RewardSettings):
    """The share of completions whose last number is the row's answer."""

    kind: Literal["exact_answer"]
    """Whether the last number of a completion is the row's answer."""
    column: str = "answer"
    """The column that holds the answer."""

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: the kind alone."""
        return None if name else {}

    def make(self, context: RewardContext) -> Reward:
        """The reward."""
        return ExactAnswerReward(self.column)
