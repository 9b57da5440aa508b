"""What a section of the page is made of. `parts.html.j2` shows each kind; all text in them is escaped there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from trimtab.report.table import Table


@dataclass(frozen=True)
class Text:
    """A paragraph. soft: a remark, in smaller letters."""

    text: str
    soft: bool = False
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]
    kind: str = field(default="bullets", init=False)


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Terms:
    """Names, and what each is. code: the values are hashes or commands."""

    values: Mapping[str, str]
    code: bool = False
    kind: str = field(default="terms", init=False)


@dataclass(frozen=True)
class ShownTable:
    """A table with what it can be downloaded as. style: classes of report.css, such as "dense", "left" (text
    rather than numbers), "comparisons" and "three" (two and three columns of names). titled: whether its caption
    stands above it."""

    table: Table
    style: str = ""
    titled: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Plot:
    """A figure. name: of its files. svg: our own, whose texts are escaped. csv: the numbers that it draws."""

    name: str
    svg: Markup
    caption: str
    csv: str
    kind: str = field(default="plot", init=False)


@dataclass(frozen=True)
class Html:
    """Markup of a template of ours."""

    html: Markup
    kind: str = field(default="html", init=False)


@dataclass(frozen=True)
class Folded:
    """Parts that are shown when somebody opens them, and in print. name: the anchor to link to."""

    title: str
    parts: Sequence[Part]
    name: str = ""
    kind: str = field(default="folded", init=False)


Part = Text | Bullets | Heading | Terms | ShownTable | Plot | Html | Folded
