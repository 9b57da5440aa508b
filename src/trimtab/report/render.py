"""Results → report.html, tables and figures. Pure: it measures nothing and needs no network.

The page is one file: style sheet and figures are inside, there is no script, and a Content-Security-Policy
forbids any other load. Every text of a model, a data set or a recipe is escaped by the template engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trimtab.catalogue import CATALOGUE, family, label, ordered_methods
from trimtab.evaluation.behaviours import BEHAVIOURS
from trimtab.evaluation.metrics import paired_metrics
from trimtab.evaluation.results import Results, Sample
from trimtab.files import make_folder, write_text
from trimtab.formats import byte_size, duration, number
from trimtab.report import figures as fig
from trimtab.report.drawing import inline
from trimtab.report.dynamics import curve_names, over_optimisation_names
from trimtab.report.table import Table
from trimtab.report.table_files import to_csv, to_markdown, to_tex
from trimtab.report.tables import all_tables, behaviour_label

OVER_OPTIMISATION = (
    "at each evaluation: the training reward (left) and the judge (right) of the "
    "same completions of held-out prompts, against the KL that was spent to get there. Markers fill as training "
    "goes on. Where both rise, the gain is one that the judge sees too. Where the left rises and the right "
    "falls, the reward is being exploited: over-optimisation, or reward hacking. Points are means over a few "
    "prompts, without intervals."
)
CAPTIONS = {
    "win_rates": "Win rate against the opponent, with 95 % intervals over prompts. The dashed line "
    "is an even match. Diamonds: the win rate that a generalised linear model predicts at equal length.",
    "judge_scores": "Mean score by the judge.",
    "length_penalty": "The length penalty of SFT, each time it was taken: its value on sampled completions "
    "(left), and its gradient's norm beside those of the losses (right). It is clipped apart from the loss's "
    "gradient, then added to it. A norm of 0 where the value is not would mean that the penalty trains nothing.",
    "behaviours": "Shares of completions, found by rules from the text alone.",
    "lengths": "Completion lengths in tokens; each panel has its own height. "
    "Chosen texts longer than the range are in the last bin.",
}


TICKED = ("win_rates", "judge_scores", "differences_")


def curves_caption(stage: str) -> str:
    """What the figure of a stage's training shows."""
    entry = CATALOGUE.get(family(stage))
    return entry.caption if entry else "training and validation."


def _captions() -> dict[str, str]:
    """Of every figure but the curves, by its name."""
    differences = {}
    for metric in paired_metrics():
        if metric.paired is not None:
            note = f" {metric.paired.note}" if metric.paired.note else ""
            differences[f"differences_{metric.name}"] = f"Paired differences in {metric.paired.name}.{note}"
    return CAPTIONS | differences


def _differences(shown: Mapping[str, Figure]) -> tuple[list[Figure], list[Figure]]:
    """Those of the metrics that answer whether a method helped, and the others, the judge's first."""
    metrics = [m for m in paired_metrics() if f"differences_{m.name}" in shown]
    headlines = [m for m in metrics if m.paired and m.paired.headline]
    others = sorted((m for m in metrics if m not in headlines), key=lambda m: not m.judged)
    figures = [[shown[f"differences_{m.name}"] for m in some] for some in (headlines, others)]
    return figures[0], figures[1]


def _caption(name: str, text: str, several_seeds: bool) -> str:
    ticks = " Small ticks: each training seed." if several_seeds and name.startswith(TICKED) else ""
    return (
        text.replace("intervals over prompts", "intervals over prompts and seeds") + ticks
        if several_seeds
        else text
    )


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Answer:
    """One completion of a sample."""

    who: str
    text: str
    score: str


@dataclass(frozen=True)
class ShownSample:
    """A prompt and what every method answered."""

    prompt: str
    answers: list[Answer]


def _figure(name: str, svg: str, caption: str) -> Figure:
    # The SVG is our own: matplotlib escapes its texts, and `inline` the title.
    return Figure(Markup(inline(svg, f"Figure {name}: {caption}")), caption)


def _sample(sample: Sample, opponent: str | None) -> ShownSample:
    names = ordered_methods(sample.completions)
    if opponent in names:
        names = [n for n in names if n != opponent] + [str(opponent)]
    answers = [
        Answer(
            label(n) + (" (opponent)" if n == opponent else ""),
            sample.completions[n],
            number(sample.scores.get(n), 2),
        )
        for n in names
    ]
    if sample.chosen is not None:
        answers.append(Answer("Chosen text of the data", sample.chosen, ""))
    return ShownSample(sample.prompt, answers)


def _costs(results: Results) -> list[tuple[str, str, str]]:
    p = results.provenance
    stages = dict.fromkeys([*p.wall_seconds, *p.peak_memory_bytes])
    return [
        (label(s), duration(p.wall_seconds.get(s)), byte_size(p.peak_memory_bytes.get(s)))
        for s in ordered_methods(list(stages))
    ]


def keep_together(text: str) -> str:
    """No line break between a number and its per cent sign, around "p = ", or inside "BLEU-4"."""
    text = re.sub(r"(?<=\d) (?=%)|(?<=\b[pn]) (?=[=<])|(?<=\b[pn] [=<]) (?=\d)", "\u00a0", text)
    return text.replace("BLEU-", "BLEU\u2011")


def _environment() -> Environment:
    # autoescape=True, not by file name: the template's name ends in .j2.
    environment = Environment(
        loader=PackageLoader("trimtab.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["keep_together"] = keep_together
    return environment


def render_html(results: Results, svgs: dict[str, str] | None = None) -> str:
    """The page as one string."""
    svgs = fig.all_figures(results) if svgs is None else svgs
    environment = _environment()
    loader = environment.loader
    assert loader is not None
    css = loader.get_source(environment, "report.css")[0]
    tables: dict[str, Table] = all_tables(results)
    several_seeds = len(set(results.provenance.seeds)) > 1
    captions = _captions()
    shown = {
        n: _figure(n, svg, _caption(n, captions[n], several_seeds)) for n, svg in svgs.items() if n in captions
    }
    headlines, others = _differences(shown)
    hacking = [
        _figure(name, svgs[name], f"{label(stage)} {OVER_OPTIMISATION}")
        for stage, name in over_optimisation_names(results).items()
        if name in svgs
    ]
    stages = []
    for stage, name in curve_names(results).items():
        if name in svgs:
            stages.append(_figure(name, svgs[name], f"{label(stage)}: {curves_caption(stage)}"))
    return environment.get_template("report.html.j2").render(
        r=results,
        css=Markup(css),
        tables=tables,
        figures=shown,
        headline_differences=headlines,
        other_differences=others,
        hacking=hacking,
        curves=stages,
        samples=[_sample(s, results.opponent) for s in results.samples],
        definitions={behaviour_label(name): row.definition for name, row in BEHAVIOURS.items()},
        costs=_costs(results),
    )


def _write(path: Path, text: str) -> None:
    write_text(path, text)


def _remove_old(folder: Path, keep: set[str]) -> None:
    """A figure or table that these results no longer have must not lie beside those they have."""
    for path in folder.iterdir():
        if path.is_file() and path.name not in keep and re.fullmatch(r".*\.(?:md|csv|tex|svg)", path.name):
            path.unlink()


def write_report(results: Results, out: Path) -> Path:
    """Write report.html, tables/*.{md,csv,tex} and figures/*.svg under `out`; give the page's path."""
    svgs = fig.all_figures(results)
    files = {f"{name}.svg": svg for name, svg in svgs.items()}
    texts: dict[str, str] = {}
    for name, table in all_tables(results).items():
        texts[f"{name}.md"] = to_markdown(table)
        texts[f"{name}.csv"] = to_csv(table)
        texts[f"{name}.tex"] = to_tex(table)
    for folder, contents in ((out / "figures", files), (out / "tables", texts)):
        make_folder(folder)
        _remove_old(folder, set(contents))
        for filename, text in contents.items():
            _write(folder / filename, text)
    page = out / "report.html"
    _write(page, render_html(results, svgs))
    return page
