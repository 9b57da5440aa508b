"""How many of a prompt's instructions hold: a reward that a program verifies, as IFEval does.

The instructions are the row's columns `instruction_id_list` and `kwargs` (instructions/checks.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

from trimtab.data.records import Record
from trimtab.instructions.checks import ARGUMENTS, COLUMNS, IDS, check_rows, instructions_of, verdicts
from trimtab.instructions.mended import check_installed
from trimtab.notices import warn
from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.settings_base import NamedRewardSettings, RewardContext

VERSION = 1
"""Part of every score's key: raised when a checker is mended."""


class InstructionsSettings(NamedRewardSettings):
    """The share of a prompt's instructions that hold, as IFEval checks them."""

    kind: Literal["instructions"]
    """The share of a prompt's instructions that hold, as IFEval checks them."""
    score: Literal["share", "all"] = "share"
    """The share of the instructions that hold, or 1 where all of them do, and else 0."""
    mode: Literal["strict", "loose"] = "strict"
    """Loose: what holds without the first line, the last line or the asterisks of the completion counts, too."""

    reads_every_row: ClassVar[bool] = True

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: the kind alone."""
        return None if name else {}

    @property
    def what(self) -> str:
        """For reports: what scores."""
        return f"the prompt's instructions ({self.score}, {self.mode})"

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What is scored, whatever it is called."""
        return (self.kind, self.score, self.mode)

    def make(self, context: RewardContext) -> Reward:
        """The reward. TrimtabError where the checkers are not installed."""
        check_installed()
        return InstructionsReward(self.score, self.mode, self.name)

    def check(self) -> None:
        """TrimtabError where the checkers are not installed."""
        check_installed()

    def check_rows(self, records: Sequence[Record], given: Collection[str] = ()) -> None:
        """TrimtabError for the first row whose instructions can't be checked, or where no row has any."""
        without = check_rows(records)
        if without:
            warn(f"{without} of {len(records)} prompts have no instructions, and so no score", about="instructions")


class InstructionsReward(Reward):
    """score, mode: see InstructionsSettings. The breakdown has 1 or 0 for each instruction."""

    def __init__(self, score: Literal["share", "all"], mode: Literal["strict", "loose"], name: str | None) -> None:
        self.name = name or "instructions"
        self.signature = f"instructions|{VERSION}|{score}|{mode}"
        self._all, self._loose = score == "all", mode == "loose"

    def reads(self, column: str) -> bool:
        """Whether it is one of the two that hold a prompt's instructions."""
        return column in COLUMNS

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order. TrimtabError for a row whose instructions can't be checked."""
        nothing: list[object] = [None] * len(completions)
        rows = [(columns or {}).get(name, nothing) for name in COLUMNS]
        return [
            self._scored({IDS: kinds, ARGUMENTS: arguments}, completion)
            for kinds, arguments, completion in zip(*rows, completions, strict=True)
        ]

    def _scored(self, row: dict[str, object], completion: str) -> Scored:
        found = verdicts(instructions_of(row), completion)
        if not found:
            return Scored(None, "the prompt has no instructions")
        held = [verdict.loose if self._loose else verdict.strict for verdict in found]
        seen: Counter[str] = Counter()
        parts = {}
        for verdict, holds in zip(found, held, strict=True):
            seen[verdict.kind] += 1
            again = f" ({seen[verdict.kind]})" if seen[verdict.kind] > 1 else ""
            parts[verdict.kind + again] = int(holds)
        score = float(all(held)) if self._all else sum(held) / len(held)
        return Scored(score, breakdown=parts)
