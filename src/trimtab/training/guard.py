"""Steps that must not be taken: a loss or gradient that is no number, or that explodes.

Such a step leaves the weights and the optimizer as they are. Its rows are named and saved in skipped.jsonl with
their tokens, and after `max_skipped` of them training stops, with the best checkpoint kept in best/.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from trimtab.data.groups import CompletionGroup
from trimtab.json_types import JsonObject

HISTORY, ENOUGH = 100, 20
"""Gradient norms that are remembered, and how many it takes to know what is usual."""


class Guard:
    """Judges each step by its loss and gradient norms, and counts the steps that were not taken.

    explosion: how many times the median of the last norms a norm may be; None: any number.
    """

    def __init__(self, explosion: float | None) -> None:
        self.explosion = explosion
        self.norms: list[float] = []
        self.skipped = 0

    def fault(self, losses: Mapping[str, float], norms: Mapping[str, float]) -> str | None:
        """What is wrong with a step, or None; a step that is taken is remembered. losses, norms: by name, the
        step's own gradient first."""
        for what, values in (("loss", losses), ("gradient's norm", norms)):
            for name, value in values.items():
                if not math.isfinite(value):
                    return f"the {' '.join(filter(None, (name, what)))} is {value}"
        norm = next(iter(norms.values()))
        nonzero = [value for value in self.norms if value > 0]
        if self.explosion is not None and len(nonzero) >= ENOUGH:
            usual = statistics.median(nonzero)
            if norm > self.explosion * usual:
                return f"the gradient's norm is {norm:.3g}, and usually {usual:.3g}"
        self.norms = [*self.norms[1 - HISTORY :], norm]
        return None

    def state(self) -> JsonObject:
        """What a checkpoint keeps of the guard."""
        return {"norms": self.norms, "skipped": self.skipped}

    def load_state(self, state: JsonObject) -> None:
        """Takes back what a checkpoint kept."""
        self.norms, self.skipped = list(state.get("norms", [])), int(state.get("skipped", 0))


def skipped_row(step: int, reason: str, groups: Sequence[CompletionGroup]) -> JsonObject:
    """A step that was not taken as a row of skipped.jsonl, whose `rows` are places in the training split."""
    return {
        "step": step,
        "reason": reason,
        "rows": [group.index for group in groups],
        "groups": [_tokens_of(group) for group in groups],
    }


def _tokens_of(group: CompletionGroup) -> JsonObject:
    tokens: JsonObject = {"prompt": group.prompt, "completions": group.completions}
    return tokens | ({"given": group.prompt_suffixes} if group.prompt_suffixes else {})
