"""A run's state in words and small drawings, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.formats import rough_duration
from trimtab.watch.state import Curve, StageState

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
"""Characters of a line of bars."""


def bars(points: Sequence[tuple[int, float]], width: int = WIDTH) -> str:
    """Values by step as a line of bars, from the lowest to the highest: the mean of each part of the steps."""
    if not points:
        return ""
    parts = [points[len(points) * i // width : len(points) * (i + 1) // width] for i in range(width)]
    means = [sum(value for _, value in part) / len(part) for part in parts if part]
    low, high = min(means), max(means)
    if high == low:
        return BARS[0] * len(means)
    return "".join(BARS[round((mean - low) / (high - low) * (len(BARS) - 1))] for mean in means)


def headline(stage: StageState) -> Curve | None:
    """The curve that tells most of a stage: the reward where one drives it, else the loss."""
    by_name = {curve.name: curve for curve in stage.curves}
    return next((by_name[name] for name in ("reward", "loss") if name in by_name), None)


def cells(stage: StageState) -> list[str]:
    """Columns of a stage's row: what, state, how far, curve, newest values, rate, time."""
    curve = headline(stage)
    share = "" if stage.share is None else f"{100 * stage.share:.0f} %"
    newest = [f"{curve.name} {curve.points[-1][1]:.4g}"] if curve else []
    evaluated = next(
        (name for name in ("eval_loss", "eval_reward", "eval_accuracy") if stage.last(name) is not None), None
    )
    newest += [f"{evaluated} {stage.last(evaluated):.4g}"] if evaluated else []
    rate = f"{stage.tokens / stage.seconds:,.0f} tok/s" if stage.tokens and stage.seconds else ""
    return [
        stage.title,
        stage.state,
        share or (f"{stage.step:,}" if stage.step else ""),
        bars(curve.points) if curve else "",
        ", ".join(newest),
        rate,
        _time(stage),
    ]


COLUMNS = ("stage", "state", "done", "curve", "newest", "rate", "time")
"""Headings of `cells`."""


def _time(stage: StageState) -> str:
    if stage.state == "runs" and stage.left is not None:
        return f"{rough_duration(stage.left)} left"
    if stage.state == "stands still" and stage.quiet is not None:
        return f"nothing for {rough_duration(stage.quiet)}"
    return rough_duration(stage.seconds) if stage.seconds else ""
