"""The tables of a report as Markdown, CSV and TeX. A number that does not exist is "–", never 0.

Text from models, data and recipes goes through the escape of its format. In CSV, numbers are raw (shares
from 0 to 1) and text that a spreadsheet would run as a formula gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from trimtab.evaluation.results import Comparison, MethodResult, Metric, Results, ordered_methods
from trimtab.evaluation.verdict import label

NONE = "–"
Value = float | int | str | None


@dataclass(frozen=True)
class Table:
    """`rows` are texts to read, one per entry of `header`; `records` are raw values for CSV."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    records: list[dict[str, Value]]
    notes: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A number with a true minus sign; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{scale * value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def with_interval(
    value: float | None, ci: tuple[float, float] | None, digits: int = 1, scale: float = 1.0, sign: bool = False
) -> str:
    """ "59.3 [52.4, 66.1]"."""
    text = number(value, digits, scale, sign)
    if value is None or ci is None:
        return text
    return f"{text} [{number(ci[0], digits, scale, sign)}, {number(ci[1], digits, scale, sign)}]"


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _spread(name: str, value: float | None, ci: tuple[float, float] | None) -> dict[str, Value]:
    low, high = ci if ci is not None else (None, None)
    return {name: value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def _method_record(name: str, m: MethodResult) -> dict[str, Value]:
    w, j, lc, b, n = m.win_rate, m.judge_score, m.length_controlled_win_rate, m.bleu, m.length
    return {
        "method": name,
        **_spread("win_rate", w.ties_half if w else None, w.ci95 if w else None),
        "win_rate_strict": w.strict if w else None,
        "win_rate_ties_as_wins": w.ties_as_wins if w else None,
        "n": w.n if w else None,
        "ties": w.ties if w else None,
        "missing": w.missing if w else None,
        **_spread("length_controlled_win_rate", lc.value if lc else None, lc.ci95 if lc else None),
        **_spread("judge_score", j.mean if j else None, j.ci95 if j else None),
        "bleu_1": b.bleu_1 if b else None,
        "bleu_2": b.bleu_2 if b else None,
        "bleu_4": b.bleu_4 if b else None,
        "perplexity": m.perplexity,
        "bits_per_byte": m.bits_per_byte,
        "tokens_mean": n.mean if n else None,
        "tokens_median": n.median if n else None,
        "chosen_tokens_mean": n.chosen_mean if n else None,
        "terminated": m.terminated,
    }


def _entries(results: Results) -> list[tuple[str, str, MethodResult]]:
    """(name, label, result), the opponent last."""
    rows = [(m, label(m), results.methods[m]) for m in ordered_methods(results.methods)]
    if results.opponent_result is not None:
        name = results.opponent or "opponent"
        rows.append((name, f"{name} (opponent)", results.opponent_result))
    return rows


def methods_table(results: Results) -> Table:
    """One row a method: quality, likelihood, length."""
    rows = []
    for _, shown, m in _entries(results):
        w, j, lc, n = m.win_rate, m.judge_score, m.length_controlled_win_rate, m.length
        rows.append(
            [
                shown,
                with_interval(w.ties_half if w else None, w.ci95 if w else None, 1, 100),
                with_interval(lc.value if lc else None, lc.ci95 if lc else None, 1, 100),
                with_interval(j.mean if j else None, j.ci95 if j else None, 2),
                number(m.bleu.bleu_4 if m.bleu else None, 1),
                number(m.perplexity, 2),
                number(m.bits_per_byte, 3),
                number(n.mean if n else None, 0),
                number(m.terminated, 1, 100),
            ]
        )
    header = ["Method", "Win rate, %", "At equal length, %", "Judge score", "BLEU-4"]
    header += ["Perplexity", "Bits per byte", "Tokens, mean", "Ended, %"]
    notes = [
        "Brackets: 95 % interval by bootstrap over prompts. Win rate: ties count as half. At equal length: "
        "the length-controlled win rate. Perplexity and bits per byte: of the chosen texts. Ended: share that "
        "ended by itself, before the cap."
    ]
    chosen = next((m.length.chosen_mean for _, _, m in _entries(results) if m.length), None)
    if chosen is not None:
        notes.append(f"The chosen texts have {chosen:.0f} tokens on average.")
    signature = next((m.bleu.signature for _, _, m in _entries(results) if m.bleu), None)
    if signature:
        notes.append(f"BLEU: {signature}")
    records = [_method_record(name, m) for name, _, m in _entries(results)]
    return Table("methods", "Methods against the opponent", header, rows, records, notes)


def win_rates_table(results: Results) -> Table:
    """The three ways to count ties, what is missing, and its worst and best case."""
    rows, records = [], []
    for name, shown, m in _entries(results):
        w = m.win_rate
        if w is None:
            continue
        low, high = w.missing_bounds or (None, None)
        cells = [number(v, 1, 100) for v in (w.ties_half, w.strict, w.ties_as_wins)]
        bounds = NONE if not w.missing or low is None else f"{number(low, 1, 100)} to {number(high, 1, 100)}"
        b = m.bleu
        bleu = [number(v, 1) for v in ((b.bleu_1, b.bleu_2) if b else (None, None))]
        rows.append([shown, *cells, str(w.n), str(w.ties), str(w.missing), bounds, *bleu])
        records.append({**_method_record(name, m), "missing_worst": low, "missing_best": high})
    header = ["Method", "Ties as half, %", "Strict, %", "Ties as wins, %", "Prompts", "Ties", "Missing"]
    header += ["If all missing were lost or won, %", "BLEU-1", "BLEU-2"]
    return Table("win_rates", "Ties, missing scores, and BLEU of other orders", header, rows, records)


_UNITS: dict[Metric, tuple[str, float, int]] = {
    "win_rate": ("Win rate, points", 100.0, 1),
    "judge_score": ("Judge score", 1.0, 3),
    "length": ("Tokens", 1.0, 1),
}


def comparison_row(c: Comparison) -> list[str]:
    name, scale, digits = _UNITS[c.metric]
    return [
        name,
        f"{label(c.a)} − {label(c.b)}",
        with_interval(c.difference, c.ci95, digits, scale, sign=True),
        p_value(c.p_value),
        p_value(c.p_holm),
        NONE if c.n is None else str(c.n),
    ]


def comparisons_table(results: Results) -> Table:
    """Paired differences between methods."""
    records: list[dict[str, Value]] = []
    for c in results.comparisons:
        head: dict[str, Value] = {"metric": c.metric, "a": c.a, "b": c.b}
        tail: dict[str, Value] = {"p_value": c.p_value, "p_holm": c.p_holm, "n": c.n}
        records.append({**head, **_spread("difference", c.difference, c.ci95), **tail})
    header = ["Metric", "Pair", "Difference [95 %]", "p", "p, Holm", "Prompts"]
    note = (
        "Paired over the prompts that both answered; p by sign flips, two-sided. Holm: over all pairs of a metric."
    )
    rows = [comparison_row(c) for c in results.comparisons]
    return Table("comparisons", "Paired differences between methods", header, rows, records, [note])


def behaviour_label(name: str) -> str:
    """ "repeated_ngrams" → "Repeated n-grams"."""
    return name.replace("_", " ").replace("ngram", "n-gram").capitalize()


def behaviours_table(results: Results) -> Table:
    """Behaviours in per cent of completions."""
    entries = [e for e in _entries(results) if e[2].behaviours]
    names = list(dict.fromkeys(k for _, _, m in entries for k in m.behaviours))
    rows = [[shown, *(number(m.behaviours.get(k), 1, 100) for k in names)] for _, shown, m in entries]
    records = [{"method": name, **{k: m.behaviours.get(k) for k in names}} for name, _, m in entries]
    header = ["Method", *(behaviour_label(k) for k in names)]
    return Table("behaviours", "Behaviours, % of completions", header, rows, records)


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
    note = "* significant at 5 % after correction for every form looked at. # stands for a number."
    return Table("markers", "Markers in the preference data and in outputs", header, rows, records, [note])


def all_tables(results: Results) -> dict[str, Table]:
    """Tables that have rows, by name."""
    makers = (methods_table, win_rates_table, comparisons_table, behaviours_table, markers_table)
    tables = [make(results) for make in makers]
    return {t.name: t for t in tables if t.rows}


def escape_markdown(text: str) -> str:
    """Text as it is in a cell of a Markdown table: no markup, no HTML, no new line."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + ch if ch in "\\`*_{}[]#|~$!" else ch for ch in flat)


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after \\ a bracket would be read as its optional argument
    "]": "{]}",
    "−": "$-$",
    "–": "--",
    "λ": r"$\lambda$",
}


def escape_tex(text: str) -> str:
    """Text as it is in TeX."""
    return "".join(_TEX.get(ch, ch) for ch in " ".join(text.split()))


def escape_csv(value: Value) -> str:
    """Numbers as they are; None as nothing; text that begins like a formula behind an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return repr(value)
    return "'" + value if value.lstrip()[:1] in ("=", "+", "-", "@") or value[:1] in ("\t", "\r", "\n") else value


def to_markdown(table: Table) -> str:
    header = [escape_markdown(h) for h in table.header]
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join([' --- ', *[' ---: '] * (len(header) - 1)])}|"]
    lines += [f"| {' | '.join(escape_markdown(cell) for cell in row)} |" for row in table.rows]
    return "\n".join(lines + [f"\n{escape_markdown(note)}" for note in table.notes]) + "\n"


def to_csv(table: Table) -> str:
    columns = list(dict.fromkeys(key for record in table.records for key in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([escape_csv(c) for c in columns])
    writer.writerows([[escape_csv(record.get(c)) for c in columns] for record in table.records])
    return out.getvalue()


def to_tex(table: Table) -> str:
    """A booktabs table."""
    lines = [r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}", r"\begin{table}", r"\centering"]
    lines += [
        rf"\caption{{{escape_tex(table.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
    ]
    lines += [r"\toprule", " & ".join(escape_tex(h) for h in table.header) + r" \\", r"\midrule"]
    lines += [" & ".join(escape_tex(cell) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip\footnotesize {escape_tex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"
