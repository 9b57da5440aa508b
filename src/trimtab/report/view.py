"""What the sections of the page are made from: results, and every table and figure of them, each made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.report.answers import Answers, read_answers
from trimtab.report.captions import captions
from trimtab.report.drawing import Drawing, inline
from trimtab.report.figures import all_figures
from trimtab.report.parts import Part, Plot, ShownTable
from trimtab.report.table import Table
from trimtab.report.table_files import to_csv
from trimtab.report.tables import all_tables


@dataclass(frozen=True)
class View:
    """tables, drawings: by name, only those that there are. captions: of drawings. answers: of every method, where
    they lie beside the results; unread: why they do not stand here, where they could not be read."""

    results: Results
    tables: Mapping[str, Table]
    drawings: Mapping[str, Drawing]
    captions: Mapping[str, str]
    answers: Answers | None = None
    unread: str = ""

    def table(self, name: str, style: str = "", titled: bool = False) -> list[Part]:
        """The table of that name, where there is one. See ShownTable."""
        return [ShownTable(self.tables[name], style, titled)] if name in self.tables else []

    def figure(self, name: str) -> list[Part]:
        """The figure of that name, where there is one."""
        if name not in self.drawings:
            return []
        drawing, caption = self.drawings[name], self.captions[name]
        # The SVG is our own: matplotlib escapes its texts, and `inline` the title.
        svg = Markup(inline(drawing.svg, f"Figure {name}: {caption}", f"{name}-"))
        return [Plot(name, svg, caption, to_csv(drawing.records))]


def view_of(results: Results, drawings: Mapping[str, Drawing] | None = None, folder: Path | None = None) -> View:
    """drawings: those of the results, where they are made already. folder: where the files beside results.json
    are."""
    drawn = all_figures(results) if drawings is None else drawings
    answers, unread = (
        (None, "") if folder is None else _answers(folder, results.opponent_method or results.opponent)
    )
    return View(results, all_tables(results), drawn, captions(results), answers, unread)


def _answers(folder: Path, opponent: str | None) -> tuple[Answers | None, str]:
    try:
        return read_answers(folder, opponent), ""
    except TrimtabError as error:
        return None, f"The completions beside results.json could not be read: {error}"
