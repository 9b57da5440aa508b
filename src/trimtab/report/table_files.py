"""Tables as Markdown, CSV and TeX: text from models, data and recipes goes through the escape of its format."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from trimtab.evaluation.markdown import escape_markdown
from trimtab.report.table import Table, Value

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
    """A Markdown table, with its notes below it."""
    header = [escape_markdown(h) for h in table.header]
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join([' --- ', *[' ---: '] * (len(header) - 1)])}|"]
    lines += [f"| {' | '.join(escape_markdown(cell) for cell in row)} |" for row in table.rows]
    return "\n".join(lines + [f"\n{escape_markdown(note)}" for note in table.notes]) + "\n"


def to_csv(records: Sequence[Mapping[str, Value]]) -> str:
    """Raw values, of a table or a figure: a row a record; a column that a record lacks is empty."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([escape_csv(c) for c in columns])
    writer.writerows([[escape_csv(record.get(c)) for c in columns] for record in records])
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
