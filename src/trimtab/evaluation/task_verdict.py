"""What alignment cost or gave in standard tasks, in sentences beside what it did to the preference."""

from __future__ import annotations

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.difference import Difference
from trimtab.evaluation.metrics import paired_metrics
from trimtab.evaluation.results import Results
from trimtab.evaluation.task_scores import TaskResult
from trimtab.evaluation.verdict import clear, find
from trimtab.formats import interval_text, number, p_text


def task_sentences(results: Results, start: str | None = None) -> list[str]:
    """One for each method that was asked tasks, beside the model that it is set against: `start`, or else base, or
    else the opponent, or else SFT."""
    headlines = [task for task in results.tasks if task.headline]
    names = ordered_methods(results.methods)
    candidates = (start, "base", results.opponent, "sft")
    reference = next((c for c in candidates if c and any(c in task.methods for task in headlines)), None)
    if reference is None:
        return []
    return [
        sentence
        for name in names
        if name != reference and (sentence := _sentence(results, headlines, name, reference))
    ]


def _sentence(results: Results, tasks: list[TaskResult], method: str, reference: str) -> str | None:
    changed: list[str] = []
    others: list[str] = []
    for task in tasks:
        found = task.difference(method, reference)
        if found is not None and clear(found):
            changed.append(_changed(task, found))
        elif found is not None:
            others.append(_unchanged(task, found))
    if not changed and not others:
        return None
    helped = _preference(results, method, reference)
    parts = [", ".join([*([helped] if helped else []), *changed]), *others]
    return f"{label(method)} against {label(reference)}, standard tasks: {'; '.join(filter(None, parts))}."


def _preference(results: Results, method: str, reference: str) -> str | None:
    """What it did to the first metric that answers whether a method helped, where that is clear."""
    for metric in paired_metrics():
        found = find(results, method, reference, metric.name) if metric.paired and metric.paired.headline else None
        if metric.paired is None or found is None:
            continue
        if not clear(found):
            return None
        verb = "helped" if found.difference > 0 else "hurt"
        size = number(abs(found.difference), metric.digits, metric.scale)
        return f"{verb} preference by {size} points of {metric.paired.name}"
    return None


def _changed(task: TaskResult, found: Difference) -> str:
    better = (found.difference > 0) == task.higher_is_better
    size = number(abs(found.difference), task.digits, task.scale)
    ends = found.ci95 if found.difference > 0 else (-found.ci95[1], -found.ci95[0])
    p = found.p_value if found.p_holm is None else found.p_holm
    doubt = f"(95 % interval {interval_text(ends, task.scale, task.digits)}; {p_text(p)} after Holm's correction)"
    if task.share and task.higher_is_better and not better:
        return f"cost {size} points of {task.name} {doubt}"
    unit = " points" if task.share else ""
    return f"{'improved' if better else 'worsened'} {task.name} by {size}{unit} {doubt}"


def _unchanged(task: TaskResult, found: Difference) -> str:
    size = number(found.difference, task.digits, task.scale, sign=True)
    unit = " points" if task.share else ""
    interval = interval_text(found.ci95, task.scale, task.digits)
    excludes = found.ci95[0] > 0 or found.ci95[1] < 0
    said = "suggestive only" if excludes else "no measurable difference"
    return f"{task.name}: {said}, {size}{unit} (95 % interval {interval})"
