"""The part of docs/metrics.md that the table of metrics gives. To write it anew:
`python -m trimtab.report.metrics_page docs/metrics.md`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from trimtab.evaluation.metrics import METRICS, Metric
from trimtab.files import write_text

BEGIN, END = "<!-- metrics: begin -->", "<!-- metrics: end -->"
DOUBTS = {"interval": "prompts, seeds", "seeds": "seeds", "none": "–"}


def metrics_markdown() -> str:
    """A row a metric: its key in a method's part of results.json, what it is, and what is told of its doubt."""
    lines = ["| key | in tables | what it is | interval over | in pairs |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(_row(metric) for metric in METRICS.values())])


def _row(metric: Metric) -> str:
    key = ".".join(part for part in metric.path if part)
    needs = " (needs a judge)" if metric.judged else ""
    pairs = "yes" if metric.paired else "–"
    return f"| `{key}` | {metric.title} | {metric.note}{needs} | {DOUBTS[metric.doubt]} | {pairs} |"


def with_metrics(page: str) -> str:
    """The page with that part anew. ValueError where it has no place for it."""
    part = f"{BEGIN}\n{metrics_markdown()}\n{END}"
    text, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: part, page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} places between {BEGIN} and {END}, not one")
    return text


if __name__ == "__main__":
    file = Path(sys.argv[1])
    write_text(file, with_metrics(file.read_text(encoding="utf-8")))
