"""How far a run has come, as a checkpoint keeps it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from trimtab.json_types import JsonObject


@dataclass
class Progress:
    """What a checkpoint holds beside weights and random states."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    window: dict[str, list[float]] = field(default_factory=dict)
    """Sums of the metrics since the last logged row."""
    samples: list[JsonObject] = field(default_factory=list)
    """Rows for completions.jsonl that were drawn since the last logged row."""
    method: JsonObject = field(default_factory=dict)
    """The method's own state."""
    guard: JsonObject = field(default_factory=dict)
    order: JsonObject = field(default_factory=dict)
    """What sets the pace of a curriculum."""
    logs: dict[str, tuple[int, str]] = field(default_factory=dict)
    """File -> its bytes and their checksum."""


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    step: int
    best_step: int
    best: float
    stopped_early: bool
    seconds: float
    tokens: int
