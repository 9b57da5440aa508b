"""Results → report.html, tables and figures. Pure: it measures nothing and needs no network.

The page is one file: style sheet, script and figures are inside. A Content-Security-Policy forbids any load and any
other script. Every text of a model, a data set or a recipe is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from trimtab.evaluation.results import Results
from trimtab.files import make_folder, write_text
from trimtab.report.drawing import Drawing
from trimtab.report.glance import glance
from trimtab.report.grouping import grouped_verdict, grouped_warnings
from trimtab.report.sections import shown_sections
from trimtab.report.table_files import to_csv, to_markdown, to_tex
from trimtab.report.templates import render, source
from trimtab.report.view import View, view_of


def render_html(results: Results, drawings: Mapping[str, Drawing] | None = None) -> str:
    """The page as one string. drawings: see view_of."""
    return _page(view_of(results, drawings))


def _page(view: View) -> str:
    script = page_script()
    return str(
        render(
            "report.html.j2",
            r=view.results,
            css=Markup(source("report.css")),
            script=Markup(script),
            script_hash=_hash(script),
            glance=glance(view.results),
            verdict=grouped_verdict(view.results),
            warnings=grouped_warnings(view.results),
            meta=_meta(view.results),
            sections=shown_sections(view),
        )
    )


def page_script() -> str:
    """All that runs in the page. The browser of completions is there before links into it are followed."""
    return source("words.js") + source("browser.js") + source("page.js")


def _hash(script: str) -> str:
    """What the Content-Security-Policy knows the page's own script by: no other can run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _meta(results: Results) -> str:
    """Against whom, by whom, from what: one line."""
    models = [f"Model: {source.name}" for source in results.provenance.models if source.role == "model"]
    data = [
        source.name if source.role == "evaluated" else f"{source.name} ({source.role})"
        for source in results.provenance.data
    ]
    facts = [
        f"Opponent: {results.opponent or 'none'}",
        f"Judge: {results.judge or 'none'}",
        *([f"Training reward: {results.training_reward}"] if results.training_reward else []),
        *([f"Seeds: {', '.join(map(str, results.provenance.seeds))}"] if results.provenance.seeds else []),
        *models,
        *([f"Data: {_few(data)}"] if data else []),
    ]
    return " · ".join(facts)


def _few(names: Sequence[str]) -> str:
    """All of up to six names; of more the first four: the table of sources has all."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:4])} and {len(names) - 4} more"


def _remove_old(folder: Path, keep: set[str]) -> None:
    """A figure or table that these results no longer have must not lie beside those they have."""
    for path in folder.iterdir():
        if path.is_file() and path.name not in keep and re.fullmatch(r".*\.(?:md|csv|tex|svg)", path.name):
            path.unlink()


def write_report(results: Results, out: Path) -> Path:
    """Write report.html, tables/*.{md,csv,tex} and figures/*.{svg,csv} under `out`; give the page's path.

    The completions that lie in `out` are in the page, to be browsed."""
    view = view_of(results, folder=out)
    figures: dict[str, str] = {}
    for name, drawing in view.drawings.items():
        figures[f"{name}.svg"] = drawing.svg
        figures[f"{name}.csv"] = to_csv(drawing.records)
    tables: dict[str, str] = {}
    for name, table in view.tables.items():
        tables[f"{name}.md"] = to_markdown(table)
        tables[f"{name}.csv"] = to_csv(table.records)
        tables[f"{name}.tex"] = to_tex(table)
    for folder, contents in ((out / "figures", figures), (out / "tables", tables)):
        make_folder(folder)
        _remove_old(folder, set(contents))
        for filename, text in contents.items():
            write_text(folder / filename, text)
    page = out / "report.html"
    write_text(page, _page(view))
    return page
