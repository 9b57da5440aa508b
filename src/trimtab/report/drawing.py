"""How every figure of a report is drawn: style, colours, and SVG that is the same for the same results.

Colours are Okabe and Ito's, safe for the colour-blind; every series also differs in marker, position or
line. Text stays text, which can be selected and searched; it is
escaped, and laid out for DejaVu Sans, which is wide.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from trimtab.catalogue import CATALOGUE, family
from trimtab.report.table import Value

# Three colours that the page recolours for dark mode; no series uses them.
INK, RULE, PAPER = "#1f2328", "#d7dbe0", "#fefefe"
OTHERS = ("#cc79a7", "#7a6fd0", "#8c564b")
WIDTH = 6.0  # inches: on a phone its letters are half as high as the page's, on a desktop as high
FONTS = "'DejaVu Sans', Verdana, system-ui, sans-serif"

_STYLE: Any = {
    "svg.hashsalt": "trimtab",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 9,
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
    # Numbers as they are: no +1.03e1 in a corner that has to be added to them, no powers of ten.
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-7, 15),
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


@dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers that it draws: a record a point, bar or row."""

    svg: str
    records: Sequence[Mapping[str, Value]]


@contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """A figure in the report's style, sizes in inches."""
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure) -> str:
    """The figure as SVG, the same bytes for the same figure: without dates or random names."""
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue().replace("'DejaVu Sans'", FONTS)


def inline(svg: str, title: str, prefix: str = "") -> str:
    """The <svg> element alone, recoloured by the page's style sheet, with a text for screen readers.

    prefix: of ids, so that none comes twice in a page of several figures; those that nothing refers to are left
    out."""
    body = svg[svg.index("<svg") :]
    for colour, variable in ((INK, "var(--ink)"), (RULE, "var(--rule)"), (PAPER, "none")):
        body = body.replace(colour, variable)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#([\w.-]+)', rf"\g<1>#{prefix}\g<2>", body)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1)


def shorten(name: str, limit: int = 34) -> str:
    """A name of at most `limit` characters, with an ellipsis where it was longer."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def colour(name: str, position: int = 0) -> str:
    """A method's colour; of another name by its position."""
    entry = CATALOGUE.get(family(name))
    return entry.colour if entry else OTHERS[position % len(OTHERS)]
