"""How hard each row is, for a curriculum: numbers that are had once, before the first step.

What the data say (scores, a column, tokens) is read off them at every start. What a model has to be asked for is
kept on the disk: log-probabilities as models/reference.py keeps the reference's, and the same ones; rewards of the
starting model's samples under a hash of the weights, prompts, sampling and reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.notices import say
from trimtab.training.order import Draws, PacedDraws, RandomDraws, steps_of_data
from trimtab.training.order_settings import OrderSettings
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import AnyContext, AnyMethod, AnyModelMethod

COUNTED = 2_000_000
"""Draws that are counted before training, to say how often each row is drawn."""


class Difficulty(NamedTuple):
    """A number for each group: what it is in words, and whether a high one is an easy row's. NaN: there is none."""

    values: NDArray[np.float64]
    what: str
    high_is_easy: bool

    def ranking(self, hard_first: bool = False) -> NDArray[np.int64]:
        """The places of the groups, the easiest first or last; ties by place. Those without a number are last."""
        hardness = -self.values if self.high_is_easy else self.values
        order: NDArray[np.int64] = np.argsort(-hardness if hard_first else hardness, kind="stable")
        return order

    @property
    def summary(self) -> str:
        """Its quantiles in a line."""
        known = self.values[~np.isnan(self.values)]
        if not len(known):
            return f"{self.what}: no row has one"
        quantiles = ", ".join(f"{q:.4g}" for q in np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
        lacking = len(self.values) - len(known)
        last = f"; {lacking} rows without one come last" if lacking else ""
        return f"{self.what}, quartiles {quantiles}{last}"


# ---- what can be asked


def check_order(name: str, method: AnyMethod, settings: TrainingSettings, records: Sequence[Record]) -> None:
    """Raises TrimtabError where a method can't have the order that its settings ask for, or its rows lack what
    tells easy from hard. records: none where they are not there yet."""
    order = settings.order
    if order is None:
        return
    if getattr(settings, "rollouts", None) == "fixed":
        raise TrimtabError(f"{name}: rollouts fixed are drawn once, at random: leave 'order' out.")
    if order.pace == "metric" and not (order.metric or method.running_metric(settings)):
        raise TrimtabError(f"{name}: it has no accuracy of its own to set a pace: name one in order.metric.")
    asked = method.role == "policy"
    completions = method.completions_of(settings)
    if order.by == "loss" and not (asked and completions != "none"):
        why = "trains on prompts alone" if asked else "begins with a head that is random"
        raise TrimtabError(f"{name}: order by loss needs the starting model's loss, and {name} {why}. {OTHERS}")
    if order.by == "column":
        for record in records:
            _column(record, order.column)
    missing = _unscored(records, 2 if order.by == "margin" else 1)
    if order.by == "margin" and missing and not (asked and completions in ("pair", "all")):
        raise TrimtabError(
            f"{name}: order by margin needs a score of the chosen and one of the rejected completion, and "
            f"{missing} has not both. {OTHERS}"
        )
    if order.by == "reward" and missing and completions != "none":
        raise TrimtabError(f"{name}: order by reward needs rows with scores, and {missing} has none. {OTHERS}")


OTHERS = "Choose another order.by, such as length or column."


def _unscored(records: Sequence[Record], count: int) -> str | None:
    """Where the first record is that lacks so many scores; None where there is none."""
    return next((r.origin for r in records if r.scores is None or len(r.scores) < count), None)


def _column(record: Record, name: str) -> float:
    value = record.columns.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        found = f"{value!r} in column {name!r}" if name in record.columns else f"no column {name!r}"
        raise TrimtabError(f"{record.origin}: order by column needs a number, and there is {found}.")
    return float(value)


# ---- how it is had


@dataclass(frozen=True)
class Rows:
    """The groups of a stage, and what may be asked about them. records: one a group."""

    order: OrderSettings
    method: AnyModelMethod
    groups: Sequence[CompletionGroup]
    context: AnyContext
    records: Sequence[Record]


def difficulty_of(
    order: OrderSettings, method: AnyModelMethod, groups: Sequence[CompletionGroup], context: AnyContext
) -> Difficulty:
    """How hard each group is. Every process takes part; they find the same."""
    records = [context.train_records[group.index] for group in groups] if order.by in OF_RECORDS else []
    return MEASURES[order.by](Rows(order, method, groups, context, records))


def _by_length(rows: Rows) -> Difficulty:
    if rows.method.completions_of(rows.method.settings) == "none":
        return Difficulty(_numbers(len(group.prompt) for group in rows.groups), "tokens of the prompt", False)
    lengths = (len(g.prompt) + sum(map(len, g.prompt_suffixes)) + g.completion_tokens for g in rows.groups)
    return Difficulty(_numbers(lengths), "tokens of the row", False)


def _by_column(rows: Rows) -> Difficulty:
    name = rows.order.column
    return Difficulty(_numbers(_column(record, name) for record in rows.records), f"column {name}", False)


def _by_margin(rows: Rows) -> Difficulty:
    if _unscored(rows.records, 2) is None:
        margins = (record.scores[0] - record.scores[-1] for record in rows.records if record.scores)
        return Difficulty(_numbers(margins), "score of chosen − score of rejected", True)
    means = (
        torch.split(logps.double(), [len(completion) for completion in group.completions])
        for group, logps in zip(rows.groups, _starting_logps(rows), strict=True)
    )
    margins = (float(pieces[0].mean() - pieces[-1].mean()) for pieces in means)
    return Difficulty(_numbers(margins), "starting model's log-probability a token, chosen − rejected", True)


def _by_loss(rows: Rows) -> Difficulty:
    losses = (-float(logps.double().mean()) for logps in _starting_logps(rows))
    return Difficulty(_numbers(losses), "starting model's loss, nats a token", False)


def _by_reward(rows: Rows) -> Difficulty:
    if _unscored(rows.records, 1) is None:
        means = (sum(record.scores) / len(record.scores) for record in rows.records if record.scores)
        return Difficulty(_numbers(means), "mean score of the row", True)
    rewards = rows.method.starting_rewards(rows.groups, rows.order.samples)
    what = f"mean reward of {rows.order.samples} samples of the starting model"
    return Difficulty(_numbers(math.nan if mean is None else mean for mean in rewards), what, True)


MEASURES: dict[str, Callable[[Rows], Difficulty]] = {
    "length": _by_length, "column": _by_column, "margin": _by_margin, "loss": _by_loss, "reward": _by_reward,
}  # fmt: skip
OF_RECORDS = {"column", "margin", "reward"}


def _starting_logps(rows: Rows) -> Sequence[torch.Tensor]:
    """Of each group's completion tokens: those that the method has already, or as they are kept on the disk."""
    if all("ref_logps" in group.columns for group in rows.groups):
        return [group.columns["ref_logps"] for group in rows.groups]
    return rows.context.starting_logps(rows.groups)


def _numbers(values: Iterable[float]) -> NDArray[np.float64]:
    return np.fromiter(values, dtype=np.float64)


# ---- for a stage


def draws_of(
    name: str,
    method: AnyModelMethod,
    groups: Sequence[CompletionGroup],
    settings: TrainingSettings,
    context: AnyContext,
) -> Draws:
    """What gives the steps of a stage their groups; says how hard they are, and at which pace they come."""
    order = settings.order
    if order is None:
        return RandomDraws(groups, settings)
    difficulty = difficulty_of(order, method, groups, context)
    steps = steps_of_data(settings, len(groups), method.steps_per_batch)
    metric = order.metric or method.running_metric(settings)
    hard_first = order.direction == "hard_first"
    draws = PacedDraws(groups, difficulty.ranking(hard_first), settings, steps, metric)
    if context.accelerator.is_main_process:
        say(f"{name}: {'hard' if hard_first else 'easy'} rows first, by {difficulty.summary}")
        if order.pace == "metric":
            say(f"{name}: {order.start:g} of them, and {order.growth:g} more whenever {metric} is {order.bound:g}")
        elif steps * settings.step_groups <= COUNTED:
            counts = draws.counts()
            low, mean, high = counts.min(), counts.mean(), counts.max()
            say(f"{name}: the steps draw each row {low} to {high} times, {mean:.3g} on average")
    return draws
