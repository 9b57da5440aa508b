"""Several rewards as one: their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.values import as_score


class WeightedReward(Reward):
    """Σ w · s. The breakdown has each part's own score, before its weight, under its name, and what the part logged
    beside it under "name/…".

    A completion that lacks a part has no score: a sum without it would be another reward's.
    """

    def __init__(self, parts: Sequence[tuple[Reward, float]]) -> None:
        self.parts = list(parts)
        names = [reward.name for reward, _ in self.parts]
        if not names or len(set(names)) < len(names):
            raise TrimtabError(
                f"rewards {', '.join(names) or '(none)'}: give one or more, each with a name of its own."
            )
        if wrong := [f"{reward.name}: {weight}" for reward, weight in self.parts if not math.isfinite(weight)]:
            raise TrimtabError(f"the weight of reward {wrong[0]} is not a finite number.")
        self.name = " + ".join(f"{weight:g}·{reward.name}" for reward, weight in self.parts)
        self.signature = "weighted|" + "|".join(f"{weight!r}·({r.signature})" for r, weight in self.parts)

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order."""
        by_reward = [
            reward.scored(prompts, completions, completion_ids=completion_ids, columns=columns)
            for reward, _ in self.parts
        ]
        for (reward, _), scores in zip(self.parts, by_reward, strict=True):
            if len(scores) != len(completions):
                raise TrimtabError(
                    f"reward {reward.name}: gave {len(scores)} scores for {len(completions)} completions."
                )
        return [self._sum(row) for row in zip(*by_reward, strict=True)]

    @property
    def wants_scale(self) -> bool:
        """Whether any part does."""
        return any(reward.wants_scale for reward, _ in self.parts)

    def set_scale(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Every part that wants one takes its scale."""
        for reward, _ in self.parts:
            if reward.wants_scale:
                reward.set_scale(prompts, completions, completion_ids=completion_ids, columns=columns)

    def reads(self, column: str) -> bool:
        """Whether the scores of any part may depend on the column."""
        return any(reward.reads(column) for reward, _ in self.parts)

    def take_metrics(self) -> dict[str, float]:
        """Of all parts; where two use one name, the later part's."""
        return {name: value for reward, _ in self.parts for name, value in reward.take_metrics().items()}

    def _sum(self, row: Sequence[Scored]) -> Scored:
        breakdown: JsonObject = {}
        for (reward, _), part in zip(self.parts, row, strict=True):
            breakdown |= {f"{reward.name}/{name}": value for name, value in part.breakdown.items()}
        breakdown |= {reward.name: part.score for (reward, _), part in zip(self.parts, row, strict=True)}
        missing = [
            f"{reward.name}: {part.reason or 'no score'}"
            for (reward, _), part in zip(self.parts, row, strict=True)
            if part.score is None
        ]
        if missing:
            return Scored(None, "; ".join(missing), breakdown)
        total = sum(weight * (part.score or 0.0) for (_, weight), part in zip(self.parts, row, strict=True))
        return as_score("the sum", total, breakdown)
