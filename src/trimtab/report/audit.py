"""What `trimtab audit` found, as tables and as a page of Markdown. Pure: reads Findings, measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trimtab.audit.findings import Findings, SplitFindings
from trimtab.audit.markers import Marker
from trimtab.audit.oddities import Occurrences
from trimtab.audit.power import power_in_words
from trimtab.audit.preferences import AuditReport, margin
from trimtab.evaluation.markdown import escape_markdown
from trimtab.files import write_text
from trimtab.folder_lock import holding
from trimtab.formats import number, p_value
from trimtab.report.table import Table
from trimtab.report.table_files import to_markdown

SHOWN = 12
"""Markers of a table; audit.json has more."""


def audit_tables(findings: Findings) -> list[Table]:
    """The tables that have something to show, the most general first."""
    tables = [_rows(findings), _reasons(findings), _lengths(findings)]
    for name, split in findings.splits.items():
        tables += _markers(name, split)
    tables += [_characters(findings), _shared(findings)]
    return [table for table in tables if table.rows]


def _table(name: str, caption: str, header: str, rows: Sequence[Sequence[str]], *notes: str) -> Table:
    cells = [list(row) for row in rows]
    return Table(name, caption, header.split("|"), cells, records=[], notes=[note for note in notes if note])


def _rows(findings: Findings) -> Table:
    splits = findings.splits.values()

    def line(name: str, values: Sequence[int | None]) -> list[list[str]]:
        shown = any(values) or name == "rows"
        return [[name, *(number(value, 0) for value in values)]] if shown else []

    rows = [
        *line("rows", [s.rows for s in splits]),
        *line("pairs", [s.audit.pairs for s in splits]),
        *line("labelled desirable", [s.labels.desirable if s.labels else 0 for s in splits]),
        *line("labelled undesirable", [s.labels.undesirable if s.labels else 0 for s in splits]),
        *line("prompts with both labels", [s.labels.prompts_with_both if s.labels else 0 for s in splits]),
        *line("prompts of several turns", [s.conversations for s in splits]),
        *line("system prompts", [s.system_prompts for s in splits]),
        *line("repeated prompts", [s.audit.duplicate_prompts for s in splits]),
        *line("repeated rows", [s.audit.duplicate_records for s in splits]),
        *line("identical pairs", [s.audit.identical_pairs for s in splits]),
        *line("empty completions", [s.audit.empty_completions for s in splits]),
        *line("equal scores", [s.audit.equal_scores for s in splits]),
        *line("preferred both ways", [s.conflicts.count for s in splits]),
        *line("completions cut at the end", [s.truncated for s in splits]),
    ]
    layouts = "; ".join(f"{name} ({count:,})" for name, count in findings.layouts.items())
    unpaired = findings.unpaired_labels
    left = f"{unpaired:,} labelled completions found no partner." if unpaired else ""
    caption = f"Rows of {Path(findings.source).name}"
    return _table("rows", caption, "|".join(["", *findings.splits]), rows, f"Layout: {layouts}.", left)


def _reasons(findings: Findings) -> Table:
    """Rows that cannot be read, and rows that training would leave out."""

    def lines(kind: str, reasons: Mapping[str, Occurrences]) -> Iterator[list[str]]:
        for reason, counted in reasons.items():
            yield [kind, _short(reason), str(counted.count), ", ".join(counted.examples)]

    rows = list(lines("cannot be read", findings.unreadable))
    for name, split in findings.splits.items():
        rows += lines(f"dropped from {name}", split.dropped)
        rows += lines(f"not used in {name}", split.ignored)
        if split.conflicts.count:
            rows += lines(f"kept in {name}", {"preferred both ways": split.conflicts})
    limit = f"Counted for max_length {findings.max_length}." if findings.max_length else ""
    return _table("reasons", "Rows that are not used, or doubtful", "|reason|rows|the first", rows, limit)


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "…"


def _lengths(findings: Findings) -> Table:
    rows = [
        [f"{name}: {side}", *(number(v, 0) for v in (q.p10, q.median, q.p90, q.mean, q.maximum))]
        for name, split in findings.splits.items()
        for side, q in split.lengths.items()
    ]
    longer = [
        f"{name}: chosen is the longer in {number(split.chosen_longer_share, 1, 100)} % of the pairs that differ."
        for name, split in findings.splits.items()
        if split.chosen_longer_share is not None
    ]
    return _table("lengths", f"Lengths in {findings.unit}", "|10 %|median|90 %|mean|longest", rows, *longer)


def _markers(name: str, split: SplitFindings) -> list[Table]:
    audit, labels = split.audit, split.labels
    tables = []
    if audit.pairs:
        looked = "all lines and word sequences were looked at"
        note = f"Of {_pairs_looked_at(audit)}; {looked}: p allows for that, and for lengths."
        ups, downs = audit.markers, audit.markers_of_rejected
        power = power_in_words(audit.pairs_examined, audit.forms_tested)
        tables.append(_marker_table(f"{name}: chosen against rejected", "chosen|rejected", ups, downs, note, power))
    if labels:
        note = f"{labels.matched:,} desirable completions beside as many undesirable ones, at random."
        ups, downs = labels.markers, labels.markers_of_undesirable
        tables.append(
            _marker_table(f"{name}: desirable against undesirable", "desirable|undesirable", ups, downs, note)
        )
    return tables


def _pairs_looked_at(audit: AuditReport) -> str:
    """How many, and where those are a sample, how far a share may be from the share of all."""
    sample, whole = audit.pairs_examined, audit.pairs - audit.identical_pairs
    said = f"{sample:,} pairs"
    if sample < whole:
        error = number(margin(sample, whole), 1, 100)
        said += f", every so many of the {whole:,} that differ: a share of all is within {error} points (95 %)"
    return said


def _marker_table(title: str, sides: str, ups: Sequence[Marker], downs: Sequence[Marker], *notes: str) -> Table:
    """Significant ones; where there are none, a row that says so."""
    telling = sorted((m for m in [*ups, *downs] if m.significant), key=lambda m: m.p_adjusted)[:SHOWN]
    rows = [
        [
            f"{m.kind} “{m.text}”",
            f"{number(m.chosen_share, 1, 100)} %",
            f"{number(m.rejected_share, 1, 100)} %",
            p_value(m.p_adjusted),
        ]
        for m in telling
    ]
    rows = rows or [["none that is significant", "", "", ""]]
    return _table("markers", f"Markers, {title}", f"|{sides}|p, adjusted", rows, *notes)


def _characters(findings: Findings) -> Table:
    rows = [
        [f"{name}: {kind}", str(counted.count), ", ".join(counted.examples)]
        for name, split in findings.splits.items()
        for kind, counted in (split.odd_characters | split.remarks).items()
    ]
    return _table("characters", "Odd characters and tokens in texts", "|rows|the first", rows)


def _shared(findings: Findings) -> Table:
    rows = [
        [
            f"{shared.second} rows whose prompt is in {shared.first}",
            str(shared.exact),
            str(shared.alike.count),
            str(shared.rows),
            "; ".join(shared.alike.examples),
        ]
        for shared in findings.shared_prompts
    ]
    note = "Alike: but for case, punctuation and white space."
    return _table("shared", "Prompts that splits share", "|exactly|alike|of|the first", rows, note)


def write_audit(findings: Findings, out: Path) -> Path:
    """OUT/audit.json and OUT/audit.md; returns the latter."""
    with holding(out):
        return _write_held(findings, out)


def _write_held(findings: Findings, out: Path) -> Path:
    write_text(out / "audit.json", findings.model_dump_json(indent=2) + "\n")
    parts = [f"# Audit of {escape_markdown(findings.source)}\n"]
    for table in audit_tables(findings):
        parts.append(f"## {escape_markdown(table.caption)}\n\n{to_markdown(table)}")
    page = out / "audit.md"
    write_text(page, "\n".join(parts))
    return page
