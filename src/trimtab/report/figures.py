"""The figures of a report that compare methods, and the list of all figures. dynamics.py has those of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from trimtab.catalogue import CATALOGUE, label, ordered_methods
from trimtab.evaluation.estimate import Estimate, SeedSpread
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.metrics import METRICS, Metric, paired_metrics
from trimtab.evaluation.results import Comparison, Results
from trimtab.evaluation.statistics import Floats
from trimtab.report import dynamics
from trimtab.report.drawing import INK, PAPER, RULE, Drawing, canvas, colour, shorten, to_svg
from trimtab.report.layout import method_label
from trimtab.report.table import Value, with_ends

Row = tuple[str, float, tuple[float, float] | None, str]  # label, value, interval, colour


def _forest(
    axes: Axes, rows: Sequence[Row], *, shift: float = 0.0, filled: bool = True, name: str | None = None
) -> None:
    for i, (_, value, ci, shade) in enumerate(rows):
        y = i + shift
        if ci is not None:
            axes.plot(ci, (y, y), color=shade, linewidth=2 if filled else 1.4, solid_capstyle="butt")
        face = shade if filled else PAPER
        axes.plot([value], [y], "o" if filled else "D", color=shade, markerfacecolor=face, markersize=7)
    if name is not None:
        face = INK if filled else PAPER
        axes.plot([], [], "o" if filled else "D", color=INK, markerfacecolor=face, markersize=6, label=name)


def _ticks(axes: Axes, spread: SeedSpread | None, scale: float, y: float, shade: str) -> None:
    """A small tick for each training seed."""
    if spread is not None:
        values = [scale * v for v in spread.values.values()]
        axes.plot(values, [y] * len(values), "|", color=shade, markersize=11, markeredgewidth=1.1, alpha=0.8)


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [shorten(text) for text in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _row(shown: str, estimate: Estimate, scale: float, shade: str) -> Row:
    ci = estimate.ci95
    scaled = None if ci is None else (scale * ci[0], scale * ci[1])
    return (shown, scale * estimate.value, scaled, shade)


def _record(name: str, estimate: Estimate) -> dict[str, Value]:
    """A number, its interval and each training seed's."""
    by_seed = estimate.seeds.values if estimate.seeds else {}
    return {
        **with_ends(name, estimate.value, estimate.ci95),
        **{f"{name}_seed_{seed}": value for seed, value in by_seed.items()},
    }


def win_rates(results: Results) -> Drawing | None:
    """Forest plot: win rate and, below it, the win rate at equal length."""
    scale = METRICS["win_rate"].scale
    rates: list[tuple[str, Estimate]] = []
    controlled: list[tuple[int, Row]] = []
    records: list[dict[str, Value]] = []
    for name in ordered_methods(results.methods):
        estimates = results.methods[name].estimates
        if "win_rate" in estimates:
            i = len(rates)
            rates.append((name, estimates["win_rate"]))
            records.append({"method": name, **_record("win_rate", estimates["win_rate"])})
            if "length_controlled_win_rate" in estimates:
                at_equal_length = estimates["length_controlled_win_rate"]
                controlled.append((i, _row(label(name), at_equal_length, scale, colour(name, i))))
                records[-1] |= _record("at_equal_length", at_equal_length)
    if not rates:
        return None
    raw = [_row(label(name), rate, scale, colour(name, i)) for i, (name, rate) in enumerate(rates)]
    with canvas(1.25 + 0.52 * len(rates)) as figure:
        axes = figure.subplots()
        axes.axvline(50, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for i, (name, rate) in enumerate(rates):
            _ticks(axes, rate.seeds, scale, i - 0.13 if controlled else i, colour(name, i))
        _forest(axes, raw, shift=-0.13 if controlled else 0.0, name="win rate" if controlled else None)
        for i, row in controlled:
            _forest(axes, [row], shift=i + 0.17, filled=False)
        if controlled:
            _forest(axes, [], filled=False, name="at equal length")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)
        _label_rows(axes, [row[0] for row in raw])
        against = shorten(results.opponent or "the opponent")
        axes.set_xlabel(f"win rate against {against}, % (95 % interval)")
        return Drawing(to_svg(figure), records)


def differences(comparisons: Sequence[Comparison], metric: Metric) -> Drawing | None:
    """Forest plot of paired differences; filled where the interval excludes 0."""
    chosen = [c for c in comparisons if c.metric == metric.name]
    if not chosen or metric.paired is None:
        return None
    with canvas(0.9 + 0.33 * len(chosen)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for i, c in enumerate(chosen):
            low, high, shade = metric.scale * c.ci95[0], metric.scale * c.ci95[1], colour(c.a, i)
            axes.plot((low, high), (i, i), color=shade, linewidth=2, solid_capstyle="butt")
            _ticks(axes, c.seeds, metric.scale, i, shade)
            face = shade if low > 0 or high < 0 else PAPER
            difference = metric.scale * c.difference
            axes.plot([difference], [i], "o", color=shade, markerfacecolor=face, markersize=6.5)
        _label_rows(axes, [f"{label(c.a)} − {label(c.b)}" for c in chosen])
        axes.set_xlabel(f"difference in {metric.paired.axis or metric.paired.name} (95 % interval)")
        records = [{"a": c.a, "b": c.b, **_record("difference", c.estimate)} for c in chosen]
        return Drawing(to_svg(figure), records)


def _with_opponent(results: Results) -> list[tuple[str, str, MethodResult]]:
    """(name, label, result) of every method; of the opponent the name is "opponent", so that it has its own ink."""
    rows = [(name, method_label(results, name), results.methods[name]) for name in ordered_methods(results.methods)]
    if results.opponent_result is not None and results.opponent_method is None:
        rows.append(("opponent", results.opponent or "opponent", results.opponent_result))
    return rows


def judge_scores(results: Results) -> Drawing | None:
    """Mean judge score of every method and of the opponent."""
    entries = [
        (i, name, shown, m.estimates["judge_score"])
        for i, (name, shown, m) in enumerate(_with_opponent(results))
        if "judge_score" in m.estimates
    ]
    if not entries:
        return None
    with canvas(0.95 + 0.36 * len(entries)) as figure:
        axes = figure.subplots()
        for place, (_, name, _, score) in enumerate(entries):
            _ticks(axes, score.seeds, 1, place, colour(name, place))
        rows = [
            _row(shown, score, 1, INK if name == "opponent" else colour(name, i))
            for i, name, shown, score in entries
        ]
        _forest(axes, rows)
        _label_rows(axes, [row[0] for row in rows])
        axes.set_xlabel("mean judge score, the judge's own units (95 % interval)")
        records = [{"method": shown, **_record("judge_score", score)} for _, _, shown, score in entries]
        return Drawing(to_svg(figure), records)


def lengths(results: Results) -> Drawing | None:
    """Histogram of completion lengths for each method over the chosen texts' outline."""
    names = [n for n in ordered_methods(results.lengths) if n != "chosen" and results.lengths[n]]
    if not names:
        return None
    chosen = results.lengths.get("chosen", [])
    longest = max(max(results.lengths[n]) for n in names)
    # A few very long chosen texts would squeeze everything else: they go into the last bin.
    limit = max(longest, float(np.quantile(chosen, 0.98)) if chosen else 0) or 1
    bins = np.linspace(0, limit, 41)
    with canvas(0.75 + 0.72 * len(names)) as figure:
        grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)
        for i, (axes, name) in enumerate(zip(grid.flat, names, strict=True)):
            values = np.asarray(results.lengths[name], dtype=float)
            shade = INK if name == results.opponent else colour(name, i)
            weights = np.full(values.size, 1 / values.size)
            axes.hist(values, bins=bins, weights=weights, color=shade, alpha=0.55)
            if chosen:
                outline = np.minimum(np.asarray(chosen, dtype=float), limit)
                share = np.full(outline.size, 1 / outline.size)
                axes.hist(outline, bins=bins, weights=share, histtype="step", color=INK, linewidth=0.9)
            axes.axvline(float(np.median(values)), color=shade, linewidth=2.2)
            axes.tick_params(axis="y", left=False, labelleft=False)
            axes.spines["left"].set_visible(False)
            axes.set_ylabel(shorten(label(name), 22), rotation=0, ha="right", va="center")
        grid.flat[-1].set_xlabel("completion length, tokens (bar: median; outline: chosen texts)")
        drawn = {name: results.lengths[name] for name in names} | ({"chosen": chosen} if chosen else {})
        return Drawing(to_svg(figure), _bins(drawn, bins))


def _bins(lengths: Mapping[str, Sequence[int]], bins: Floats) -> list[dict[str, Value]]:
    """Shares in each bin; what is beyond the last one is in it."""
    counted = {name: np.histogram(np.minimum(of, bins[-1]), bins)[0] / len(of) for name, of in lengths.items()}
    return [
        {"from_tokens": float(low), "to_tokens": float(high), **{name: float(c[i]) for name, c in counted.items()}}
        for i, (low, high) in enumerate(pairwise(bins))
    ]


OTHER_MARKERS = ("P", "X", "p")


def behaviours(results: Results) -> Drawing | None:
    """Dot plot: a row a behaviour, a dot a method."""
    entries = _with_opponent(results)
    names = list(dict.fromkeys(k for _, _, m in entries for k, v in m.behaviours.items() if v is not None))
    if not names:
        return None
    with canvas(1.05 + 0.54 * len(names)) as figure:
        axes = figure.subplots()
        step = 0.7 / max(1, len(entries) - 1)
        for i, (key, shown, m) in enumerate(entries):
            shares = [(100 * v, y) for y, k in enumerate(names) if (v := m.behaviours.get(k)) is not None]
            marker = CATALOGUE[key].marker if key in CATALOGUE else OTHER_MARKERS[i % len(OTHER_MARKERS)]
            shade = INK if key == "opponent" else colour(key, i)
            offset = i * step - 0.35 if len(entries) > 1 else 0.0
            axes.plot(
                [x for x, _ in shares], [y + offset for _, y in shares], marker, color=shade,
                markersize=5.5, alpha=0.9, label=shorten(shown, 26),
            )  # fmt: skip
        _label_rows(axes, [_plain(k) for k in names])
        for edge in range(1, len(names)):
            axes.axhline(edge - 0.5, color=RULE, linewidth=0.8)
        # From 0, which dots may straddle, and wide enough where nothing occurs.
        top = max([1.0, *(100 * v for _, _, m in entries for v in m.behaviours.values() if v is not None)])
        axes.set_xlim(-0.015 * top, 1.04 * top)
        axes.set_xlabel("share of completions, %")
        figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2)
        records = [{"behaviour": k, **{shown: m.behaviours.get(k) for _, shown, m in entries}} for k in names]
        return Drawing(to_svg(figure), records)


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("ngram", "n-gram")


def all_figures(results: Results) -> dict[str, Drawing]:
    """By name, those that the results can fill."""
    optimised = dynamics.over_optimisation_names(results)
    makers: dict[str, Callable[[], Drawing | None]] = {
        "win_rates": lambda: win_rates(results),
        "judge_scores": lambda: judge_scores(results),
        **{f"differences_{m.name}": partial(differences, results.comparisons, m) for m in paired_metrics()},
        **{name: partial(dynamics.over_optimisation, results, stage) for stage, name in optimised.items()},
        "length_penalty": lambda: dynamics.length_penalty(results),
        "lengths": lambda: lengths(results),
        "behaviours": lambda: behaviours(results),
    }
    for stage, name in dynamics.curve_names(results).items():
        makers[name] = partial(dynamics.curves, stage, results.curves_of(stage))
    return {name: drawing for name, make in makers.items() if (drawing := make()) is not None}
