"""The figures of training: each stage's curves, the length penalty, and over-optimisation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from trimtab.catalogue import CATALOGUE, family, label, optimising_methods, ordered_methods
from trimtab.evaluation.overoptimisation import Evaluation, evaluations
from trimtab.evaluation.results import Results, StageCurves
from trimtab.json_types import JsonValue
from trimtab.report.drawing import INK, PAPER, Drawing, canvas, colour, to_svg
from trimtab.report.table import Value

DASHES = ("solid", (0, (4, 2)))
MANY_POINTS = 40  # beyond it a line has no markers
SEED_MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Panel:
    """One quantity. keys: of metrics rows, each with its name where there are two, at most.

    band: of validation, key/low to key/high.
    """

    title: str
    keys: dict[str, str]
    band: bool = False


PANELS = {
    "loss": Panel("loss", {"loss": ""}),
    "preference accuracy": Panel("preference accuracy, share", {"rewards/accuracies": ""}),
    "implicit rewards": Panel(
        "implicit reward, β · log-ratio", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}
    ),
    "implicit margin": Panel("implicit reward margin", {"rewards/margins": ""}),
    "pair accuracy": Panel("accuracy on pairs (95 % interval)", {"accuracy": ""}, band=True),
    "reward margin": Panel("reward margin", {"margin": ""}),
    "training reward": Panel("training reward", {"reward": ""}),
    "judge score": Panel("judge score", {"judge": ""}),
    "KL": Panel("KL to reference, nats", {"kl": ""}),
    "log-probabilities": Panel("log π(y | x), nats", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
    "divergence": Panel("divergence from teacher, nats a token", {"divergence": "data's", "own/divergence": "own"}),
    "length": Panel("completion length, tokens", {"completions/mean_length": ""}),
    "cut": Panel("cut at the cap, share", {"completions/clipped_ratio": ""}),
    "entropy": Panel("entropy, nats a token", {"entropy": ""}),
    "equal rewards": Panel("groups of equal rewards, share", {"frac_reward_zero_std": ""}),
    "explained variance": Panel("explained variance of returns", {"val/explained_variance": ""}),
    "gradient norm": Panel("gradient norm before clipping", {"grad_norm": ""}),
}
"""By the names that the catalogue has for them; a stage of another name shows all that it logged."""


def panels_of(stage: str) -> list[Panel]:
    """The panels of a stage's figure, in order."""
    entry = CATALOGUE.get(family(stage))
    return [PANELS[name] for name in entry.panels] if entry else list(PANELS.values())


Points = tuple[list[float], list[float]]


def _points(rows: Sequence[Mapping[str, JsonValue]], key: str) -> Points:
    points = [
        (float(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row.get("step"), (int, float)) and isinstance(row.get(key), (int, float))
    ]
    return [x for x, _ in points], [y for _, y in points]


def has_data(panel: Panel, curves: StageCurves) -> bool:
    """Whether any of the panel's keys was logged."""
    return any(_points(curves.train, key)[0] or _points(curves.validation, f"eval_{key}")[0] for key in panel.keys)


def curves(stage: str, by_seed: Mapping[int, StageCurves]) -> Drawing | None:
    """Training and validation curves of one stage, a panel for each quantity that was logged.

    The first seed's are drawn in full, the others' faintly behind.
    """
    first, *others = by_seed.values()
    panels = [panel for panel in panels_of(stage) if has_data(panel, first)]
    if not panels:
        return None
    paired = [panel for panel in panels if len(panel.keys) > 1]  # the first one's key serves all
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with canvas(2.15 * lines + 0.3) as figure:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel, first, colour(stage))
            for other in others:
                _draw(axes, panel, other, colour(stage), faint=True)
            _trim(axes, panel.title)
            if panel in paired[:1]:
                for name, dashes in zip(panel.keys.values(), DASHES, strict=False):
                    axes.plot([], [], color=INK, linestyle=dashes, linewidth=1.2, label=f"_{name}")
                handles = axes.get_lines()[-len(panel.keys) :]
                axes.legend(handles, panel.keys.values(), loc="best", handlelength=1.8, borderaxespad=0.2)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        drawn = [pair for axes in grid.flat for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        first_of = {text: h for h, text in reversed(drawn)}
        names = [n for n in ("training", "validation", "other seeds") if n in first_of]
        figure.legend([first_of[n] for n in names], names, loc="outside upper right", ncols=3)
        return Drawing(to_svg(figure), _curve_records(panels, by_seed))


def _curve_records(panels: Sequence[Panel], by_seed: Mapping[int, StageCurves]) -> list[dict[str, Value]]:
    """A record a logged step, with what the panels draw of it."""
    keys = [key for panel in panels for key in panel.keys]
    keys += [f"{key}/{side}" for panel in panels if panel.band for key in panel.keys for side in ("low", "high")]
    drawn = ["step", *keys, *(f"eval_{key}" for key in keys)]
    return [
        {"seed": seed, "rows": rows_of, **{key: row[key] for key in drawn if key in row}}
        for seed, curves in by_seed.items()
        for rows_of, rows in (("training", curves.train), ("validation", curves.validation))
        for row in rows
        if any(key in row for key in drawn[1:])
    ]


def _draw(axes: Axes, panel: Panel, curves: StageCurves, shade: str, faint: bool = False) -> None:
    for (key, _), dashes in zip(panel.keys.items(), DASHES, strict=False):
        train, held_out = _points(curves.train, key), _points(curves.validation, f"eval_{key}")
        name = "other seeds" if faint else "training"
        if train[0]:
            dots = "o" if len(train[0]) == 1 else ""
            weight, alpha = (0.8, 0.4) if faint else (1.1, 0.75)
            axes.plot(
                *train,
                marker=dots,
                color=shade,
                linewidth=weight,
                alpha=alpha,
                linestyle=dashes,
                label=name,
                zorder=1 if faint else 2,
            )
        if held_out[0]:
            name = "other seeds" if faint else "validation"
            if faint:
                axes.plot(*held_out, color=INK, linewidth=0.9, alpha=0.5, linestyle=dashes, label=name, zorder=1)
            else:
                axes.plot(*held_out, "o", color=INK, linewidth=1.4, markersize=4, linestyle=dashes, label=name)
        low, high = (_points(curves.validation, f"eval_{key}/{side}") for side in ("low", "high"))
        if panel.band and not faint and low[0] and low[0] == high[0]:
            axes.fill_between(low[0], low[1], high[1], color=shade, alpha=0.18, linewidth=0)


def _trim(axes: Axes, title: str, below: str = "optimizer step") -> None:
    axes.set_title(title)
    axes.set_xlabel(below)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=below == "optimizer step", min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", labelsize=9)
    axes.grid(axis="y")


def length_penalty(results: Results) -> Drawing | None:
    """The penalty's value, and its gradient's norm beside those of SFT with and without it."""
    penalised, plain = results.curves.get("sft_length"), results.curves.get("sft")
    if penalised is None:
        return None
    value = _points(penalised.train, "length_penalty/value")
    norm = _points(penalised.train, "length_penalty/grad_norm")
    if not value[0] and not norm[0]:
        return None
    with canvas(2.75) as figure:
        left, right = figure.subplots(1, 2)
        shade = colour("sft_length")
        many = len(value[0]) > MANY_POINTS
        left.plot(*value, "-" if many else "o-", color=shade, markersize=4, linewidth=1.3)
        _trim(left, "mean of max(0, ℓ(ŷ) − ℓ(y))², tokens²")
        left.set_ylim(bottom=0)
        own = _points(penalised.train, "grad_norm")
        others = _points(plain.train, "grad_norm") if plain else ([], [])
        if others[0]:
            right.plot(
                *others, color=colour("sft"), linewidth=1.1, linestyle=DASHES[1], label=f"{label('sft')}: loss"
            )
        if own[0]:
            right.plot(*own, color=shade, linewidth=1.1, label=f"{label('sft_length')}: loss")
        dotted = {"linewidth": 1, "linestyle": (0, (1, 2)), "label": "the penalty"}
        right.plot(*norm, "" if many else "D", color=INK, markersize=4, **dotted)
        _trim(right, "gradient norm before clipping")
        if norm[1] and min([*norm[1], *own[1], *others[1]]) > 0:
            right.set_yscale("log")
            right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            right.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside upper right", ncols=3)
        return Drawing(to_svg(figure), _penalty_records(penalised, plain))


def _penalty_records(penalised: StageCurves, plain: StageCurves | None) -> list[dict[str, Value]]:
    keys = ("step", "length_penalty/value", "length_penalty/grad_norm", "grad_norm")
    stages = {"sft_length": penalised.train, "sft": plain.train if plain else []}
    return [
        {"stage": stage, **{key: row[key] for key in keys if key in row}}
        for stage, rows in stages.items()
        for row in rows
    ]


def over_optimisation(results: Results, stage: str) -> Drawing | None:
    """Training reward and judge against KL, side by side: the same completions, a path for each seed."""
    every = {seed: evaluations(curves) for seed, curves in results.curves_of(stage).items()}
    paths = {seed: [e for e in path if e.kl is not None] for seed, path in every.items()}
    paths = {seed: path for seed, path in paths.items() if len(path) > 1}
    if not paths:
        return None
    with canvas(3.3) as figure:
        left, right = figure.subplots(1, 2, sharex=True)
        for i, (seed, path) in enumerate(paths.items()):
            for axes, name in ((left, "reward"), (right, "judge")):
                _path(axes, path, [getattr(e, name) for e in path], i, f"seed {seed}", colour(stage))
        below = "KL to the reference, nats"
        _trim(left, "training reward: what is optimised", below)
        _trim(right, "judge score: what is wanted", below)
        if len(paths) > 1:
            handles, names = left.get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper right", ncols=len(paths))
        records = [
            {"seed": seed, "step": e.step, "kl": e.kl, "reward": e.reward, "judge": e.judge}
            for seed, path in paths.items()
            for e in path
        ]
        return Drawing(to_svg(figure), records)


def _path(
    axes: Axes, path: Sequence[Evaluation], values: Sequence[float], place: int, name: str, shade: str
) -> None:
    """Markers fill as training goes on; some steps are written beside them."""
    marker = SEED_MARKERS[place % len(SEED_MARKERS)]
    kl = [e.kl if e.kl is not None else 0.0 for e in path]
    axes.plot(kl, values, color=shade, linewidth=1.2, alpha=0.7, linestyle=DASHES[min(place, 1)])
    for i, (x, y) in enumerate(zip(kl, values, strict=True)):
        axes.plot([x], [y], marker, color=shade, markerfacecolor=PAPER, markersize=6.5)
        axes.plot([x], [y], marker, color=shade, markersize=6.5, alpha=i / (len(path) - 1))
    axes.plot([], [], marker, color=shade, linestyle=DASHES[min(place, 1)], markersize=6, label=name)
    if place:
        return
    last = len(path) - 1
    for i in sorted({0, last // 2, last}):
        text = f"step {path[i].step}" if i in (0, last) else str(path[i].step)
        rising = values[-1] > values[0]
        beside = (0, 9) if i == 0 else (5, -12) if rising and i != last else (6, 6)
        axes.annotate(
            text, (kl[i], values[i]), xytext=beside, textcoords="offset points", fontsize=8,
            ha="left" if i else "center",
        )  # fmt: skip
    axes.margins(x=0.08, y=0.18)
    axes.set_xlim(right=max(kl) + 0.25 * (max(kl) - min(kl) or 1))


def curve_names(results: Results) -> dict[str, str]:
    """Stage → name of its figure, fit for a file and unique."""
    names: dict[str, str] = {}
    for i, stage in enumerate(ordered_methods(results.curves)):
        name = f"curves_{re.sub(r'[^A-Za-z0-9_-]', '_', stage)}"
        names[stage] = f"{name}_{i}" if name in names.values() else name
    return names


def over_optimisation_names(results: Results) -> dict[str, str]:
    """Stage of a method that a reward drives → the name of its over-optimisation figure, fit for a file."""
    return {stage: f"over_optimisation_{stage}" for stage in optimising_methods() if stage in results.curves}
