"""A run's state as one page that needs no server and loads itself anew."""

from __future__ import annotations

from html import escape

from trimtab.watch.state import Curve, RunState, StageState
from trimtab.watch.words import COLUMNS, cells, headline

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; white-space: nowrap; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; } .waits { opacity: .65; }
figure { display: inline-block; margin: 1rem 1rem 0 0; } svg { display: block; width: 100%; max-width: 20rem; }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; } .of-eval polyline { stroke-dasharray: 4 3; }
"""
WIDTH, HEIGHT = 320, 120
"""Of a curve's drawing."""


def page(state: RunState, seconds: float | None) -> str:
    """The page. seconds: until it loads itself anew; None: never."""
    again = f'<meta http-equiv="refresh" content="{max(1, round(seconds))}">' if seconds is not None else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    rows = "".join(_row(stage) for stage in state.stages)
    drawn = "".join(_figure(stage) for stage in state.stages)
    name = escape(state.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}<title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{name}{': done' if state.finished else ''}</h1>"
        f'<div class="wide" tabindex="0" role="region" aria-label="Stages"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{drawn}</main></body></html>\n"
    )


def _row(stage: StageState) -> str:
    kind = ' class="waits"' if stage.state == "waits" else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(stage)) + "</tr>"


def _figure(stage: StageState) -> str:
    """The stage's main curve, and that of its evaluations beside, in one frame."""
    curve = headline(stage)
    if curve is None or len(curve.points) < 2:
        return ""
    beside = next((c for c in stage.curves if c.name == f"eval_{curve.name}" and len(c.points) > 1), None)
    curves = [curve] if beside is None else [curve, beside]
    values = [value for c in curves for _, value in c.points]
    steps = [step for c in curves for step, _ in c.points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)

    def line(c: Curve) -> str:
        points = " ".join(
            f"{WIDTH * (step - first) / max(1, last - first):.1f},"
            f"{HEIGHT - HEIGHT * (value - low) / ((high - low) or 1.0):.1f}"
            for step, value in c.points
        )
        kind = ' class="of-eval"' if c.name.startswith("eval_") else ""
        return f"<g{kind}><polyline points='{points}'/></g>"

    what = (
        f"{stage.title}: {' and '.join(c.name for c in curves)}, {low:.4g} to {high:.4g}, steps {first} to {last}"
    )
    return (
        f'<figure><svg role="img" aria-label="{escape(what, quote=True)}" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}">'
        f"{''.join(map(line, curves))}</svg><figcaption>{escape(what)}</figcaption></figure>"
    )
