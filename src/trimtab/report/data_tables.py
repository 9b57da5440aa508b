"""The tables of a report that say what went in: markers of the data, settings, models and data."""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.audit.power import power_in_words
from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.results import Results
from trimtab.formats import NONE, byte_size, duration, number, p_value
from trimtab.report.table import Table, Value


def in_words(counts: Mapping[str, object]) -> str:
    """ "identical: 4, empty: 2"; "–" without any."""
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or NONE


def splits_table(results: Results) -> Table:
    """What was read of each split, and what became of it."""
    splits = results.data.items()
    rows = [[name, str(c.read), str(c.kept), in_words(c.dropped), in_words(c.truncated)] for name, c in splits]
    records: list[dict[str, Value]] = [
        {
            **{"split": name, "read": c.read, "kept": c.kept},
            **{f"dropped_{why}": n for why, n in c.dropped.items()},
            **{f"shortened_{what}": n for what, n in c.truncated.items()},
        }
        for name, c in splits
    ]
    header = ["Split", "Read", "Kept", "Dropped", "Shortened"]
    return Table("splits", "Rows that were read", header, rows, records)


def words_table(results: Results) -> Table:
    """How long the texts of the preferences are."""
    sides = results.audit.lengths_words.items() if results.audit else ()
    rows = [[side, *(number(v, 0) for v in (q.p10, q.median, q.p90, q.mean, q.maximum))] for side, q in sides]
    records: list[dict[str, Value]] = [{"side": side, **q.model_dump()} for side, q in sides]
    header = ["Words", "10 %", "Median", "90 %", "Mean", "Longest"]
    return Table("words", "Words of the data's texts", header, rows, records)


def costs_table(results: Results) -> Table:
    """Wall clock and peak memory of each stage."""
    p = results.provenance
    stages = ordered_methods(list(dict.fromkeys([*p.wall_seconds, *p.peak_memory_bytes])))
    spent = [(stage, p.wall_seconds.get(stage), p.peak_memory_bytes.get(stage)) for stage in stages]
    return Table(
        "costs",
        "Time and memory",
        ["Stage", "Wall clock", "Peak memory"],
        [[label(stage), duration(seconds), byte_size(memory)] for stage, seconds, memory in spent],
        [{"stage": s, "wall_seconds": seconds, "peak_memory_bytes": memory} for s, seconds, memory in spent],
    )


def markers_table(results: Results, top: int = 10) -> Table:
    """Markers of the chosen texts, and the share of each model's outputs that hold them."""
    audit = results.audit
    markers = audit.markers[:top] if audit else []
    amplified = audit.amplification if audit else {}
    names = list(dict.fromkeys(k for m in markers for k in amplified.get(m.text, {})))
    rows, records = [], []
    for m in markers:
        rates: Mapping[str, float | None] = amplified.get(m.text, {})
        shares = [m.chosen_share, m.rejected_share, *(rates.get(k) for k in names)]
        adjusted = p_value(m.p_adjusted) + (" *" if m.significant else "")
        rows.append([m.text, m.kind, *(number(s, 1, 100) for s in shares), adjusted])
        record: dict[str, Value] = {"marker": m.text, "kind": m.kind, "chosen": m.chosen_share}
        record |= {"rejected": m.rejected_share, "p_value": m.p_value, "p_adjusted": m.p_adjusted}
        records.append(record | {f"outputs_{k}": rates.get(k) for k in names})
    header = ["Marker", "Kind", "Chosen, %", "Rejected, %", *(f"{label(k)}, %" for k in names), "p, adjusted"]
    notes = ["* significant at 5 % after correction for every form looked at, lengths allowed for. # is a number."]
    notes += [power_in_words(audit.pairs_examined, audit.forms_tested)] if audit and audit.pairs_examined else []
    notes += [f"Looked at: {in_words(audit.forms_tested)} forms in {audit.pairs_examined} pairs."] if audit else []
    return Table("markers", "Markers in the preference data and in outputs", header, rows, records, notes)


def settings_table(results: Results) -> Table:
    """What was set, beside the default."""
    changed = results.provenance.settings
    return Table(
        "settings",
        "Settings that differ from their defaults",
        ["Setting", "Value", "Default"],
        [[s.name, s.value, NONE if s.default is None else s.default] for s in changed],
        [{"setting": s.name, "value": s.value, "default": s.default} for s in changed],
    )


def defaults_table(results: Results) -> Table:
    """What was left at its default."""
    defaults = results.provenance.defaults
    return Table(
        "defaults",
        "Settings at their defaults",
        ["Setting", "Value"],
        [[name, value] for name, value in defaults.items()],
        [{"setting": name, "value": value} for name, value in defaults.items()],
    )


def sources_table(results: Results) -> Table:
    """Models and data by their names and hashes."""
    sources = [("model", source) for source in results.provenance.models]
    sources += [("data", source) for source in results.provenance.data]
    named = [(source.role if source.role == kind else f"{kind}: {source.role}", source) for kind, source in sources]
    return Table(
        "sources",
        "Models and data",
        ["What", "Name", "Hash"],
        [[what, source.name, source.hash or NONE] for what, source in named],
        [{"what": what, "name": source.name, "hash": source.hash} for what, source in named],
    )
