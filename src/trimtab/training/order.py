"""Which groups a step is given: at random, or easy before hard at a pace.

Both are functions of seed and step, so that a resumed run draws what an unbroken one would. With a curriculum the
easiest share c of the rows may be drawn, and c grows to 1 (Platanios et al. 2019, arXiv 1903.09848).

Where we depart: the paper draws a batch uniformly of those rows; here rows are drawn in passes, each of them once a
pass, and a row joins the pass that is going on. The order within a pass is the random one of its number: with c = 1
from the start it is the very order without a curriculum.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.data.groups import CompletionGroup
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.training.order_settings import OrderSettings
from trimtab.training.schedule import TrainingSettings, data_order, groups_of_step, total_steps

SHARE = "order/share"
"""The metric: the share of rows that could be drawn."""


class Draws(Protocol):
    """What gives a step its groups."""

    def of_step(self, step: int) -> list[CompletionGroup]:
        """The groups of a step of the data, counted from 0."""

    def see(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes notice of an optimizer step's metrics. Returns what it logs itself."""

    def state(self) -> JsonObject:
        """What a checkpoint must keep."""

    def load_state(self, state: JsonObject) -> None:
        """Takes back what a checkpoint kept."""


class RandomDraws:
    """Every row once an epoch, in an order of its own."""

    def __init__(self, groups: Sequence[CompletionGroup], settings: TrainingSettings) -> None:
        self.groups, self.settings = groups, settings

    def of_step(self, step: int) -> list[CompletionGroup]:
        """The groups of a step: epochs lie end to end."""
        return groups_of_step(self.groups, step, self.settings.step_groups, self.settings.seed)

    def see(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Nothing changes what is drawn."""
        return {}

    def state(self) -> JsonObject:
        """Nothing: it is a function of seed and step."""
        return {}

    def load_state(self, state: JsonObject) -> None:
        """Nothing was kept."""
        return


def steps_of_data(settings: TrainingSettings, rows: int, steps_per_batch: int) -> int:
    """How often a run asks for groups of the data: less than its optimizer steps where several share a batch."""
    steps = total_steps(settings, rows)
    return math.ceil(steps / steps_per_batch) if settings.max_steps else steps


def share_of_step(order: OrderSettings, step: int, steps: int) -> float:
    """The share c of rows that a step (counted from 0) of so many may draw, where steps set the pace.

    With T steps of pace and the first share c₀: linear c = min(1, t (1 − c₀) / T + c₀), root
    c = min(1, √(t (1 − c₀²) / T + c₀²)): Platanios et al. 2019, their competence functions, Eq. 7 and 8.
    """
    done = step / (order.steps or max(1, round(order.share * steps)))
    if order.pace == "root":
        return min(1.0, math.sqrt(done * (1 - order.start**2) + order.start**2))
    return min(1.0, done * (1 - order.start) + order.start)


class PacedDraws:
    """The easiest rows first, the share of those that may be drawn growing at the pace of the settings.

    ranking: places in `groups`, what comes first first. steps: how often the run asks for groups. metric: which one
    sets the pace, where one does. At least a step's groups may be drawn, so that none is in a step twice.
    """

    def __init__(
        self,
        groups: Sequence[CompletionGroup],
        ranking: NDArray[np.int64],
        settings: TrainingSettings,
        steps: int,
        metric: str | None = None,
    ) -> None:
        if settings.order is None:
            raise ValueError("the settings have no order")
        self.groups, self.ranking, self.steps, self.metric = groups, ranking, steps, metric
        self.order, self.size, self.seed = settings.order, settings.step_groups, settings.seed
        self.shares: list[tuple[int, float]] = [(0, self.order.start)]
        """With pace metric: from which step on which share may be drawn."""
        self.recent: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self.next, self.admitted, self.number = 0, 0, -1
        self.drawn: list[int] = []
        self.waiting: list[int] = []
        """Of the pass that is going on: the turns of rows that may be drawn and have not been, as a heap."""

    # ---- what is drawn

    def share(self, step: int) -> float:
        """The share of rows that a step of the data may draw."""
        if self.order.pace != "metric":
            return share_of_step(self.order, step, self.steps)
        return next(share for first, share in reversed(self.shares) if first <= step)

    def places(self, step: int) -> list[int]:
        """The places of a step's groups. For a step before the last one asked for it begins anew."""
        if step < self.next - 1:
            self._begin()
        while self.next <= step:
            self.drawn = self._draw(self.share(self.next))
            self.next += 1
        return self.drawn

    def of_step(self, step: int) -> list[CompletionGroup]:
        """The groups of a step of the data, counted from 0."""
        return [self.groups[place] for place in self.places(step)]

    def _draw(self, share: float) -> list[int]:
        rows = len(self.ranking)
        count = min(rows, max(math.ceil(share * rows - 1e-9), self.size))
        fresh = self.ranking[self.admitted : count]
        self.admitted = max(self.admitted, count)
        if self.number < 0:
            self._next_pass()
        else:
            for turn in self._turns()[fresh].tolist():
                heapq.heappush(self.waiting, turn)
        drawn: list[int] = []
        while len(drawn) < self.size:
            if not self.waiting:
                self._next_pass()
            drawn.append(int(data_order(rows, self.seed, self.number)[heapq.heappop(self.waiting)]))
        return drawn

    def _next_pass(self) -> None:
        self.number += 1
        self.waiting = sorted(self._turns()[self.ranking[: self.admitted]].tolist())

    def _turns(self) -> NDArray[np.int64]:
        """When each row's turn comes in the pass, by its place."""
        order = data_order(len(self.ranking), self.seed, self.number)
        turns = np.empty_like(order)
        turns[order] = np.arange(len(order))
        return turns

    def counts(self) -> NDArray[np.int64]:
        """How often the run draws each place, where steps set the pace."""
        counts = np.zeros(len(self.ranking), dtype=np.int64)
        for step in range(self.steps):
            np.add.at(counts, self.places(step), 1)
        self._begin()
        return counts

    # ---- what sets the pace

    def see(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Takes notice of an optimizer step's metrics; none where the step was not taken. Returns the share.

        TrimtabError where the metric that sets the pace is none of the first step's.
        """
        share = self.share(self.next - 1)
        if self.order.pace == "metric" and metrics:
            if (value := metrics.get(self.metric or "")) is not None:
                self.recent.append(value)
            elif self.next == 1 and not self.recent and len(self.shares) == 1:
                known = ", ".join(sorted(metrics))
                raise TrimtabError(f"order.metric {self.metric!r} is no metric of a training step: {known}.")
            self._grow(share)
        return {SHARE: share}

    def _grow(self, share: float) -> None:
        self.recent = self.recent[-self.order.window :]
        reached = sum(self.recent) / max(1, len(self.recent)) >= (self.order.bound or 0.0)
        if len(self.recent) == self.order.window and reached and share < 1:
            self.shares.append((self.next, min(1.0, share + self.order.growth)))
            self.recent = []

    def state(self) -> JsonObject:
        """What a metric has set so far; steps alone need nothing."""
        return {"shares": self.shares, "recent": self.recent} if self.order.pace == "metric" else {}

    def load_state(self, state: JsonObject) -> None:
        """Takes back what a checkpoint kept; what was drawn is drawn again, the same."""
        if state:
            self.shares = [(int(step), float(share)) for step, share in state["shares"]]
            self.recent = [float(value) for value in state["recent"]]
            self._begin()
