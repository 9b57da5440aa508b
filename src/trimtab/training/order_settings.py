"""In which order training meets its rows: at random, or by how hard they are, at a pace."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from trimtab.data.settings import IN_MEMORY, STEPS, WEIGHT, Settings


class OrderSettings(Settings):
    """A curriculum: how hard each row is, and how soon the harder ones may be drawn (docs/curriculum.md)."""

    by: Literal["margin", "length", "reward", "loss", "column"] = "length"
    """What tells easy rows from hard ones. margin: how far chosen and rejected are apart. length: tokens. reward:
    the rows' scores, or the starting model's rewards. loss: the starting model's. column: a column of the data."""
    column: str = "difficulty"
    """The column of numbers that `by: column` reads; small is easy."""
    direction: Literal["easy_first", "hard_first"] = "easy_first"
    """Which end comes first; hard_first is there for comparison."""
    pace: Literal["linear", "root", "metric"] = "linear"
    """How the share of rows that may be drawn grows to 1: evenly over the steps, by a square root of them, or by
    `growth` whenever the running mean of a training metric reaches `bound`."""
    start: float = Field(0.1, gt=0, le=1)
    """The share of rows that the first step draws from."""
    steps: int | None = Field(None, gt=0, le=STEPS)
    """Steps until every row may be drawn; None: `share` of all steps."""
    share: float = Field(0.5, gt=0, le=1)
    """Share of the run's steps until every row may be drawn, where `steps` says nothing."""
    metric: str | None = None
    """Which training metric pace metric watches, high is good; None: the method's own accuracy, or its reward."""
    bound: float | None = Field(None, ge=-WEIGHT, le=WEIGHT)
    """What the metric's running mean must reach."""
    growth: float = Field(0.1, gt=0, le=1)
    """By how much of all rows the share grows each time."""
    window: int = Field(5, gt=0, le=STEPS)
    """Steps of the running mean, which begins anew after each growth."""
    samples: int = Field(4, gt=0, le=IN_MEMORY)
    """Completions of each prompt that `by: reward` draws of the starting model, where rows have no scores."""

    @model_validator(mode="after")
    def _check_meant(self) -> Self:
        given = self.model_fields_set
        if self.pace == "metric" and self.bound is None:
            raise ValueError("pace metric needs 'bound', which the metric's running mean must reach")
        foreign = {"steps", "share"} if self.pace == "metric" else {"metric", "bound", "growth", "window"}
        if wrong := sorted(given & foreign):
            raise ValueError(f"pace {self.pace} takes no {', '.join(wrong)}")
        if self.by != "column" and "column" in given:
            raise ValueError(f"'column' is for by: column, not for by: {self.by}")
        return self
