"""The tables of standard tasks: a row a method, and a row a pair of methods."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.results import Results
from trimtab.evaluation.task_scores import TaskResult
from trimtab.evaluation.verdict import clear
from trimtab.formats import NONE, p_value, with_interval
from trimtab.report.layout import method_label
from trimtab.report.table import Table, Value, with_ends


def tasks_table(results: Results) -> Table:
    """The headline metric of each task."""
    headlines = [task for task in results.tasks if task.headline]
    described = ", ".join(f"{task.task}: {_described(task)}" for task in headlines)
    notes = [
        f"By lm-eval. Brackets: 95 % interval over documents, and over seeds where there are several. {described}."
    ]
    if lower := [task.task for task in headlines if not task.higher_is_better]:
        notes.append(f"Lower is better: {', '.join(lower)}.")
    if unpaired := [task.task for task in headlines if not task.by_document]:
        notes.append(f"No mean over documents, so without an interval: {', '.join(unpaired)}.")
    return _by_method("tasks", "Standard tasks", results, headlines, notes)


def task_metrics_table(results: Results) -> Table:
    """The other metrics."""
    return _by_method(
        "task_metrics", "Every other metric", results, [t for t in results.tasks if not t.headline], []
    )


def _described(task: TaskResult) -> str:
    shots = "" if task.shots is None else f", {task.shots}-shot"
    version = "" if task.version is None else f", version {task.version}"
    return f"{task.documents:,} documents{shots}{version}"


def _by_method(name: str, caption: str, results: Results, tasks: Sequence[TaskResult], notes: list[str]) -> Table:
    names = [n for n in _order(results) if any(n in task.methods for task in tasks)]
    rows, records = [], []
    for method in names:
        cells, record = [], dict[str, Value](method=method)
        for task in tasks:
            estimate = task.methods.get(method)
            value, ends = (estimate.value, estimate.ci95) if estimate else (None, None)
            cells.append(with_interval(value, ends, task.digits, task.scale))
            record |= with_ends(task.name, value, ends)
        shown = f"{method} (opponent)" if method == results.opponent else method_label(results, method)
        rows.append([shown, *cells])
        records.append(record)
    header = ["Method", *(f"{task.name}{', %' if task.share else ''}" for task in tasks)]
    return Table(name, caption, header, rows, records, notes)


def _order(results: Results) -> list[str]:
    opponent = [results.opponent] if results.opponent else []
    return [*ordered_methods(results.methods), *opponent]


def task_pairs_table(results: Results) -> Table:
    """Every pair of methods in every metric of every task, the headlines first."""
    rows, records = [], []
    for task in sorted(results.tasks, key=lambda task: not task.headline):
        for c in task.comparisons:
            text = with_interval(c.difference, c.ci95, task.digits, task.scale, sign=True)
            pair = f"{label(c.a)} − {label(c.b)}"
            documents = NONE if c.n is None else str(c.n)
            star = " *" if clear(c) else ""
            rows.append([task.name, pair, text + star, p_value(c.p_value), p_value(c.p_holm), documents])
            head: dict[str, Value] = {"task": task.task, "metric": task.metric, "a": c.a, "b": c.b}
            tail: dict[str, Value] = {"p_value": c.p_value, "p_holm": c.p_holm, "n": c.n}
            records.append({**head, **with_ends("difference", c.difference, c.ci95), **tail})
    header = ["Task", "Pair", "Difference [95 %]", "p", "p, Holm", "Documents"]
    note = (
        "Paired over documents, those of equal text as one; shares in points. p by sign flips, two-sided; Holm: "
        "over all pairs of a metric. * clear: the interval excludes 0, and p after Holm's correction is below 0.05."
    )
    return Table("task_pairs", "Paired differences in standard tasks", header, rows, records, [note])
