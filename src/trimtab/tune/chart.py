"""Every trial of a search with its interval, the best above."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.evaluation.metrics import METRICS
from trimtab.report.drawing import INK, OTHERS, Drawing, canvas, to_svg
from trimtab.report.table import Value, with_ends
from trimtab.tune.ending import Tried
from trimtab.tune.search import in_words
from trimtab.tune.trial import Bench

ROW = 0.22
"""Inches of a trial."""


def records(bench: Bench, tried: Sequence[Tried]) -> list[dict[str, Value]]:
    """A row for each trial: its values, its objectives, and the first one's interval."""
    [first, *others] = bench.settings.objectives
    return [
        {
            "trial": one.number,
            **{path: value if isinstance(value, int | float) else str(value) for path, value in one.values.items()},
            **with_ends(first, one.estimate.value, one.estimate.ci95),
            **dict(zip(others, one.numbers[1:], strict=True)),
            "keeps_constraints": str(one.feasible).lower(),
            "on_the_front": str(one.front).lower(),
        }
        for one in tried
    ]


def chart(bench: Bench, tried: Sequence[Tried]) -> Drawing:
    """A row for each trial; the recipe's own values are marked, and what breaks a constraint is hollow."""
    [first, *_] = bench.settings.objectives
    metric = METRICS[first]
    with canvas(1.0 + ROW * len(tried)) as figure:
        axes = figure.subplots()
        for i, one in enumerate(tried):
            shade = INK if one.values == bench.start else OTHERS[1]
            value, ci = metric.scale * one.estimate.value, one.estimate.ci95
            if ci is not None:
                axes.plot([metric.scale * end for end in ci], [i, i], color=shade, linewidth=1.6)
            axes.plot(
                [value], [i], "o", color=shade, markersize=5, markerfacecolor=shade if one.feasible else "none"
            )
        axes.set_yticks(range(len(tried)), [f"{one.number}" for one in tried])
        axes.set_ylim(len(tried) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelsize=7)
        axes.set_ylabel("trial")
        axes.set_xlabel(f"{metric.title} on the tuning prompts (95 % interval); dark: {in_words(bench.start)}")
        axes.grid(axis="x")
        return Drawing(to_svg(figure), records(bench, tried))
