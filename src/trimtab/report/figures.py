"""The figures of a report, as SVG: the same bytes for the same results.

Colours are Okabe and Ito's, safe for the colour-blind; every series also differs in marker, position or
line. Text is drawn as paths, so a figure looks the same everywhere and cannot carry markup.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trimtab.evaluation.results import Comparison, Metric, Results, StageCurves, ordered_methods
from trimtab.evaluation.verdict import label

# Three colours that the page recolours for dark mode; no series uses them.
INK, RULE, PAPER = "#1f2328", "#d7dbe0", "#fefefe"
COLOURS = {"base": "#7a7a7a", "sft": "#e69f00", "sft_length": "#56b4e9", "dpo": "#0072b2", "grpo": "#009e73"}
OTHERS = ("#cc79a7", "#d55e00", "#b8a800")
WIDTH = 7.2  # inches

_STYLE: Any = {
    "svg.hashsalt": "trimtab",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 10,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 9,
}

# key in a metrics row → axis label; the order is that of the panels
PANELS = {
    "loss": "loss",
    "rewards/accuracies": "preference accuracy, share",
    "rewards/margins": "reward margin",
    "reward": "training reward",
    "judge_score": "judge score",
    "kl": "KL to reference, nats",
    "logps/chosen": "log π(chosen), nats",
    "completions/mean_length": "completion length, tokens",
    "grad_norm": "gradient norm",
}


@contextmanager
def _figure(height: float, width: float = WIDTH) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()


def inline(svg: str, title: str) -> str:
    """The <svg> element alone, recoloured by the page's style sheet, with a text for screen readers."""
    body = svg[svg.index("<svg") :]
    for colour, variable in ((INK, "var(--ink)"), (RULE, "var(--rule)"), (PAPER, "none")):
        body = body.replace(colour, variable)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1)


def _shorten(name: str, limit: int = 34) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def colour(name: str, position: int = 0) -> str:
    return COLOURS.get(name, OTHERS[position % len(OTHERS)])


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


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [_shorten(text) for text in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def win_rates(results: Results) -> str | None:
    """Forest plot: win rate and, below it, the win rate at equal length."""
    names = [
        m
        for m in ordered_methods(results.methods)
        if (w := results.methods[m].win_rate) and w.ties_half is not None
    ]
    if not names:
        return None
    raw: list[Row] = []
    controlled: list[tuple[int, Row]] = []
    for i, m in enumerate(names):
        w, lc = results.methods[m].win_rate, results.methods[m].length_controlled_win_rate
        if w is not None and w.ties_half is not None:
            ci = (100 * w.ci95[0], 100 * w.ci95[1]) if w.ci95 else None
            raw.append((label(m), 100 * w.ties_half, ci, colour(m, i)))
        if lc is not None:
            ci = (100 * lc.ci95[0], 100 * lc.ci95[1]) if lc.ci95 else None
            controlled.append((i, (label(m), 100 * lc.value, ci, colour(m, i))))
    with _figure(1.25 + 0.52 * len(names)) as figure:
        axes = figure.subplots()
        axes.axvline(50, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        _forest(axes, raw, shift=-0.13 if controlled else 0.0, name="win rate" if controlled else None)
        for i, row in controlled:
            _forest(axes, [row], shift=i + 0.17, filled=False)
        if controlled:
            _forest(axes, [], filled=False, name="at equal length")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)
        _label_rows(axes, [row[0] for row in raw])
        against = _shorten(results.opponent or "the opponent")
        axes.set_xlabel(f"win rate against {against}, % (95 % interval)")
        return _svg(figure)


_DIFFERENCES: dict[Metric, tuple[str, float]] = {
    "win_rate": ("difference in win rate, points (95 % interval)", 100.0),
    "judge_score": ("difference in judge score (95 % interval)", 1.0),
    "length": ("difference in length, tokens (95 % interval)", 1.0),
}


def differences(comparisons: Sequence[Comparison], metric: Metric) -> str | None:
    """Forest plot of paired differences; filled where the interval excludes 0."""
    chosen = [c for c in comparisons if c.metric == metric]
    if not chosen:
        return None
    text, scale = _DIFFERENCES[metric]
    with _figure(0.9 + 0.33 * len(chosen)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for i, c in enumerate(chosen):
            ci = (scale * c.ci95[0], scale * c.ci95[1])
            row: Row = ("", scale * c.difference, ci, colour(c.a, i))
            axes.plot(ci, (i, i), color=row[3], linewidth=2, solid_capstyle="butt")
            face = row[3] if ci[0] > 0 or ci[1] < 0 else PAPER
            axes.plot([row[1]], [i], "o", color=row[3], markerfacecolor=face, markersize=6.5)
        _label_rows(axes, [f"{label(c.a)} − {label(c.b)}" for c in chosen])
        axes.set_xlabel(text)
        return _svg(figure)


def judge_scores(results: Results) -> str | None:
    """Mean judge score of every method and of the opponent."""
    entries = [(m, label(m), results.methods[m]) for m in ordered_methods(results.methods)]
    if results.opponent_result is not None:
        entries.append(("opponent", results.opponent or "opponent", results.opponent_result))
    rows: list[Row] = [
        (shown, m.judge_score.mean, m.judge_score.ci95, INK if key == "opponent" else colour(key, i))
        for i, (key, shown, m) in enumerate(entries)
        if m.judge_score is not None
    ]
    if not rows:
        return None
    with _figure(0.95 + 0.36 * len(rows)) as figure:
        axes = figure.subplots()
        _forest(axes, rows)
        _label_rows(axes, [row[0] for row in rows])
        axes.set_xlabel("mean judge score, the judge's own units (95 % interval)")
        return _svg(figure)


def _points(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found = [
        (float(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row.get("step"), (int, float)) and isinstance(row.get(key), (int, float))
    ]
    return [x for x, _ in found], [y for _, y in found]


def curves(stage: str, stage_curves: StageCurves) -> str | None:
    """Training and validation curves of one stage, a panel for each quantity that was logged."""
    panels = []
    for key, text in PANELS.items():
        train, held_out = _points(stage_curves.train, key), _points(stage_curves.validation, f"eval_{key}")
        if train[0] or held_out[0]:
            panels.append((text, train, held_out))
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with _figure(2.15 * lines + 0.3) as figure:
        grid = figure.subplots(lines, columns, squeeze=False)
        shade = colour(stage)
        for axes, (text, train, held_out) in zip(grid.flat, panels, strict=False):
            if train[0]:
                dots = "o" if len(train[0]) == 1 else ""
                axes.plot(*train, marker=dots, color=shade, linewidth=1.1, alpha=0.75, label="training")
            if held_out[0]:
                axes.plot(*held_out, "o-", color=INK, linewidth=1.4, markersize=4, label="validation")
            axes.set_title(text)
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.tick_params(axis="y", labelsize=9)
            axes.grid(axis="y")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles = {text: h for axes in grid.flat for h, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)
        return _svg(figure)


def lengths(results: Results) -> str | None:
    """Histogram of completion lengths for each method over the chosen texts' outline."""
    names = [n for n in ordered_methods(results.lengths) if n != "chosen" and results.lengths[n]]
    if not names:
        return None
    chosen = results.lengths.get("chosen", [])
    longest = max(max(results.lengths[n]) for n in names)
    # A few very long chosen texts would squeeze everything else: they go into the last bin.
    limit = max(longest, float(np.quantile(chosen, 0.98)) if chosen else 0) or 1
    bins = np.linspace(0, limit, 41)
    with _figure(0.75 + 0.72 * len(names)) as figure:
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
            axes.set_ylabel(_shorten(label(name), 22), rotation=0, ha="right", va="center")
        grid.flat[-1].set_xlabel("completion length, tokens (bar: median; outline: chosen texts)")
        return _svg(figure)


def curve_names(results: Results) -> dict[str, str]:
    """Stage → name of its figure, fit for a file and unique."""
    names: dict[str, str] = {}
    for i, stage in enumerate(ordered_methods(results.curves)):
        name = f"curves_{re.sub(r'[^A-Za-z0-9_-]', '_', stage)}"
        names[stage] = f"{name}_{i}" if name in names.values() else name
    return names


def all_figures(results: Results) -> dict[str, str]:
    """Name → SVG, of those that the results can fill."""
    makers: dict[str, Callable[[], str | None]] = {
        "win_rates": lambda: win_rates(results),
        "judge_scores": lambda: judge_scores(results),
        "differences_win_rate": lambda: differences(results.comparisons, "win_rate"),
        "differences_judge_score": lambda: differences(results.comparisons, "judge_score"),
        "differences_length": lambda: differences(results.comparisons, "length"),
        "lengths": lambda: lengths(results),
    }
    for stage, name in curve_names(results).items():
        makers[name] = lambda stage=stage: curves(stage, results.curves[stage])  # type: ignore[misc]
    return {name: svg for name, make in makers.items() if (svg := make()) is not None}
