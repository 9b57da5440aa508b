"""How models are evaluated, and what one evaluation is given."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from trimtab.data.records import Record
from trimtab.data.settings import BUDGET
from trimtab.data.splits import DataSettings
from trimtab.data.trust import TrustSettings
from trimtab.evaluation.generate import Decoding
from trimtab.models.settings import Precision
from trimtab.rewards.base import Reward


class EvaluationSettings(TrustSettings):
    """What `evaluation` takes in a recipe."""

    decoding: Decoding = Decoding()
    """How completions are decoded."""
    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: as in training."""
    token_budget: int = Field(4096, gt=0, le=BUDGET)
    """Packed tokens of a pass for perplexity: memory and speed."""


@dataclass(frozen=True)
class EvaluationTask:
    """One model to evaluate: which rows it answers, how, and the folder that keeps it all.

    name: of the method. model: a folder or hub name. model_hash: of its weights. test: rows whose prompts are
    answered. validation: rows whose chosen completions give the perplexity. judge: None where nothing is scored.
    tokenizer: None for the model's own. report: takes a line on how far it is. day: of chat templates that ask
    for today. replaces: what the folder holds of other inputs is made anew, which is said; without it TrimtabError.
    """

    name: str
    model: str
    model_hash: str
    test: Sequence[Record]
    validation: Sequence[Record]
    settings: EvaluationSettings
    data: DataSettings
    judge: Reward | None
    folder: Path
    tokenizer: str | None = None
    report: Callable[[str], None] = lambda line: None
    day: datetime.date | None = None
    replaces: bool = True

    @property
    def tokenizer_source(self) -> str:
        """Where its tokenizer comes from."""
        return self.tokenizer or self.model
