"""What decides at a glance: every method's number with its interval, the line that it is read against, and what
the method changed. The forest plot at the head of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.estimate import Estimate, Interval95
from trimtab.evaluation.metrics import METRICS, Metric, paired_metrics
from trimtab.evaluation.outcome import Word, outcome_of
from trimtab.evaluation.results import Results
from trimtab.formats import NONE, number, with_interval
from trimtab.report.drawing import colour, shorten
from trimtab.report.layout import method_label
from trimtab.report.table import Value, with_ends
from trimtab.report.table_files import to_csv
from trimtab.report.templates import render


@dataclass(frozen=True)
class Change:
    """What a method changed. size: the difference with its interval, "" where the number beside it says it."""

    word: Word
    size: str
    against: str
    why: str


@dataclass(frozen=True)
class Lane:
    """One method. Places are per cent of the axis; place is None for the opponent itself, which has no win rate.
    equal: of the win rate at equal length. seeds: of each training seed's number."""

    shown: str
    colour: str
    text: str
    place: float | None
    ends: Interval95 | None
    equal: float | None
    seeds: Sequence[float]
    change: Change | None


MANY, BEST, WORST = 12, 4, 2
"""Methods from which on a plot folds, and how many of the best and of the worst stand before the fold."""


@dataclass(frozen=True)
class Forest:
    """column: what its numbers are headed by. line: what it is read against, and its place; None where there is
    nothing. few: of many lanes those that stand before the fold, in runs between which others are; empty: all are
    shown."""

    title: str
    column: str
    lanes: Sequence[Lane]
    ticks: Sequence[tuple[str, float]]
    line: tuple[str, float] | None
    csv: str
    few: Sequence[Sequence[Lane]] = ()

    @property
    def has_equal(self) -> bool:
        """Whether any method has a win rate at equal length."""
        return any(lane.equal is not None for lane in self.lanes)

    @property
    def has_seeds(self) -> bool:
        """Whether any method has several training seeds."""
        return any(lane.seeds for lane in self.lanes)


def glance(results: Results) -> Markup:
    """The plot as markup; nothing where no method has a number that tells which is better."""
    forest = forest_of(results)
    return Markup("") if forest is None else render("glance.html.j2", forest=forest, best=BEST, worst=WORST)


def forest_of(results: Results) -> Forest | None:
    """By the first metric that answers whether a method helped and that some method has; the best method first."""
    for metric in paired_metrics():
        found = {
            name: estimate
            for name in ordered_methods(results.methods)
            if (estimate := results.methods[name].estimates.get(metric.name)) is not None
        }
        if metric.paired and metric.paired.headline and found:
            return _forest(results, metric, found)
    return None


def _forest(results: Results, metric: Metric, found: dict[str, Estimate]) -> Forest:
    line = _line(results, metric)
    equal = {name: _equal(results, metric, name) for name in found}
    values = [
        value
        for name, estimate in found.items()
        for value in (estimate.value, *(estimate.ci95 or ()), *_by_seed(estimate), equal[name])
        if value is not None
    ]
    axis = _Axis([metric.scale * value for value in [*values, *([line[1]] if line else [])]])
    order = sorted(found, key=lambda name: -found[name].value)
    places = {name: place for place, name in enumerate(found)}
    lanes = [
        Lane(
            shown=label(name),
            colour=colour(name, places[name]),
            text=with_interval(found[name].value, found[name].ci95, metric.digits, metric.scale),
            place=axis.place(metric.scale * found[name].value),
            ends=_ends(axis, found[name].ci95, metric.scale),
            equal=None if (rate := equal[name]) is None else axis.place(metric.scale * rate),
            seeds=[axis.place(metric.scale * value) for value in _by_seed(found[name])],
            change=_change(results, name),
        )
        for name in order
    ]
    if metric.name == "win_rate" and results.opponent_method is not None:
        own = results.opponent_method
        lanes.append(Lane(method_label(results, own), colour(own, len(lanes)), NONE, None, None, None, [], None))
    records: list[dict[str, Value]] = [
        {"method": name, **with_ends(metric.name, found[name].value, found[name].ci95)} for name in order
    ]
    title = f"{metric.title} against {results.opponent}" if line and metric.name == "win_rate" else metric.title
    shown_line = None if line is None else (line[0], axis.place(metric.scale * line[1]))
    few = [[lanes[i] for i in run] for run in _runs(_few(results, order, len(lanes)))]
    return Forest(title, metric.title, lanes, axis.ticks(), shown_line, to_csv(records), few)


def _few(results: Results, order: Sequence[str], lanes: int) -> list[int]:
    """The places of those that stand before the fold: the best, the worst, what the others are set beside, and what
    has no number. order: of those with one; lanes: of all."""
    if len(order) <= MANY:
        return []
    beside = {"base", "sft", results.start}
    chosen = {i for i, name in enumerate(order) if name in beside}
    chosen |= {*range(BEST), *range(len(order) - WORST, lanes)}
    return sorted(chosen)


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Neighbours together."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _line(results: Results, metric: Metric) -> tuple[str, float] | None:
    """An even match for win rates; else the opponent's own number."""
    if results.opponent is None:
        return None
    if metric.name == "win_rate":
        return f"even with {shorten(results.opponent, 26)}", 0.5
    own = results.opponent_result.value(metric.name) if results.opponent_result else None
    return None if own is None else (results.opponent, own)


def _equal(results: Results, metric: Metric, name: str) -> float | None:
    return results.methods[name].value("length_controlled_win_rate") if metric.name == "win_rate" else None


def _by_seed(estimate: Estimate) -> list[float]:
    return list(estimate.seeds.values.values()) if estimate.seeds else []


def _ends(axis: _Axis, ci: Interval95 | None, scale: float) -> Interval95 | None:
    return None if ci is None else (axis.place(scale * ci[0]), axis.place(scale * ci[1]))


class _Axis:
    """From values to per cent of the width, with a margin at both ends."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.5
        self.low, self.high = low - margin, high + margin

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[tuple[str, float]]:
        values = [
            v
            for v in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
            if self.low <= v <= self.high
        ]
        digits = 0 if all(float(v).is_integer() for v in values) else 2
        return [(number(float(v), digits), self.place(float(v))) for v in values]


def start_of(results: Results, method: str) -> str | None:
    """What a method is set beside, as the verdict's sentences do: the comparison's own start, what it started from,
    a study's SFT or base, else the opponent; None for what stands at the beginning itself."""
    names = ordered_methods(results.methods)
    if results.start is not None:
        return results.start if method != results.start else None
    before = names[: names.index(method)]
    return next(
        (name for name in (results.began_at.get(method), "sft", "base") if name in before),
        None if method == "base" else results.opponent,
    )


def _change(results: Results, method: str) -> Change | None:
    start = start_of(results, method)
    if start is None:
        return None
    outcome = outcome_of(results, method, start)
    if outcome.metric is None:
        return None
    metric = METRICS[outcome.metric]
    alone = start == results.opponent and outcome.metric == "win_rate"
    size = with_interval(outcome.value, outcome.ci95, metric.digits, metric.scale, sign=True)
    return Change(outcome.outcome, "" if alone else size, label(start), outcome.why or "")
