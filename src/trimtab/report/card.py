"""The part of a model card that a study's results give: warnings first, then the numbers with their intervals."""

from __future__ import annotations

from dataclasses import replace

from trimtab.catalogue import family, label
from trimtab.evaluation.markdown import escape_markdown
from trimtab.evaluation.results import Comparison, Results
from trimtab.report.grouping import subject_of
from trimtab.report.layout import method_label
from trimtab.report.table_files import to_markdown
from trimtab.report.tables import methods_table
from trimtab.training.card import public_text


def results_section(results: Results, method: str) -> str:
    """Markdown: one method's row beside those that it is compared with; "" where it was not evaluated."""
    if method not in results.methods:
        return ""
    table = methods_table(results)
    opponent = f"{results.opponent or 'opponent'} (opponent)"
    beside = {"base", method, results.opponent_method or "base"}
    shown = {opponent, *(method_label(results, name) for name in beside)}
    rows = [row for row in table.rows if row[0] in shown]
    # The card is for others: no folder of this machine in it.
    rows = [[public_text(row[0]), *row[1:]] for row in rows]
    lines = ["## Results"]
    for line in (line for line in results.warnings if about(line, results) in (None, family(method))):
        lines += [f"> **Warning:** {escape_markdown(public_text(line))}", ">"]
    lines += ["", to_markdown(replace(table, rows=rows)), _how(results), ""]
    for c in results.comparisons:
        if c.metric == "win_rate" and method in (c.a, c.b):
            lines.append(_win_rate_line(c))
    return "\n".join(lines)


def _win_rate_line(c: Comparison) -> str:
    low, high = c.ci95
    p, corrected = (c.p_value, "") if c.p_holm is None else (c.p_holm, " after Holm")
    difference = f"{100 * c.difference:+.1f} points of win rate [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"- {label(c.a)} − {label(c.b)}: {difference}, p = {p:.3g}{corrected}"


def about(warning: str, results: Results) -> str | None:
    """The method that a warning begins with; None where it is about the study."""
    who = subject_of(warning, results)
    return who.method if who else None


def _how(results: Results) -> str:
    """Who judged, with which seeds and decoding."""
    sentences = []
    against, judge = (escape_markdown(public_text(text or "")) for text in (results.opponent, results.judge))
    if results.judge:
        sentences.append(f"Win rates are against {against}, judged by {judge}; ties count half.")
    seeds = results.provenance.seeds
    pooled = " (pooled; these weights are of one of them)" if len(seeds) > 1 else ""
    sentences.append(f"Intervals are 95 %. Training seeds: {', '.join(map(str, seeds)) or 'unknown'}{pooled}.")
    sentences.append(f"Decoding: `{results.provenance.decoding}`.")
    return " ".join(sentences)
