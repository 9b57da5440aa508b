"""From what lm-eval wrote of a task to a number for each document, whose mean is lm-eval's own number.

A mean of documents is what can be paired. Whether a metric is one is not assumed but found out: the mean must give
lm-eval's number. Metrics of one number a document are plain means. Those of several (IFEval's instructions) are a
ratio of sums, for which a document counts as often as it has numbers. A group's number is a mean over the documents
of its tasks, or a mean of its tasks' means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.errors import TrimtabError
from trimtab.evaluation.statistics import Floats
from trimtab.evaluation.task_scores import TaskScores
from trimtab.files import read_json
from trimtab.json_types import JsonObject, JsonValue
from trimtab.readers import tables

CLOSE = 1e-6


@dataclass(frozen=True)
class _Documents:
    """names, and of each its number; share: whether all are from 0 to 1 before any weight."""

    names: tuple[str, ...]
    values: Floats | None
    share: bool


def kept_scores(folder: Path, asked: str, headline: str | None = None) -> list[TaskScores]:
    """Every metric of what was asked, the headline's own first. headline: its metric; None: the first.

    A group stands before its tasks; its headline is its own metric, or, where it has none, that of each of its
    tasks. TrimtabError where there is no such metric.
    """
    kept = read_json(folder / "results.json", f"Remove {folder}, and the same command makes it anew.")
    results, groups = kept["results"], kept.get("groups") or {}
    leaves = [name for name in results if (folder / f"samples_{name}.jsonl.gz").is_file()]
    rows = {name: _rows(folder / f"samples_{name}.jsonl.gz") for name in leaves}
    scores: list[TaskScores] = []
    grouped = asked in groups and bool(_metrics(groups[asked]))
    if grouped:
        metrics = _chosen_first(_metrics(groups[asked]), headline, asked)
        scores += [
            _score(kept, asked, metric, _joined(rows, metric, number), number, i == 0)
            for i, (metric, number) in enumerate(metrics)
        ]
    for name in leaves:
        metrics = _chosen_first(_metrics(results[name]), None if grouped else headline, name)
        for i, (metric, number) in enumerate(metrics):
            documents = _checked(_documents(name, rows[name], metric), number)
            scores.append(_score(kept, name, metric, documents, number, i == 0 and not grouped))
    return scores


def _rows(path: Path) -> list[JsonObject]:
    return [row for row in tables.rows_of(path) if isinstance(row, dict)]


def _metrics(of_task: JsonObject) -> list[tuple[str, float]]:
    """(METRIC,FILTER and number), in lm-eval's order."""
    return [
        (key, float(value))
        for key, value in of_task.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    ]


def _chosen_first(metrics: list[tuple[str, float]], chosen: str | None, task: str) -> list[tuple[str, float]]:
    if chosen is None:
        return metrics
    found = [pair for pair in metrics if chosen in (pair[0], pair[0].rpartition(",")[0], _shown(pair[0]))]
    if not found:
        raise TrimtabError(
            f"tasks.metrics: {task} has no metric {chosen!r}. It has: {', '.join(key for key, _ in metrics)}."
        )
    return [*found[:1], *(pair for pair in metrics if pair != found[0])]


def _shown(key: str) -> str:
    """ "exact_match,strict-match" → "exact_match, strict-match"; "acc,none" → "acc"."""
    metric, _, name = key.rpartition(",")
    return metric if name == "none" else f"{metric}, {name}"


def _score(
    kept: JsonObject, task: str, key: str, documents: _Documents, number: float, headline: bool
) -> TaskScores:
    version, shots = kept["versions"].get(task), kept["n-shot"].get(task)
    higher = kept["higher_is_better"].get(task, {}).get(key.rpartition(",")[0])
    return TaskScores(
        task=task,
        metric=_shown(key),
        headline=headline,
        number=number,
        documents=documents.names,
        values=documents.values,
        share=documents.share and documents.values is not None,
        higher_is_better=higher is not False,
        version=None if version is None else str(version),
        shots=shots if isinstance(shots, int) else None,
    )


def _documents(task: str, rows: Sequence[JsonObject], key: str) -> _Documents:
    """One number a document of this metric and filter."""
    metric, _, name = key.rpartition(",")
    own = [row for row in rows if row.get("filter") == name and metric in row]
    names = tuple(f"{task}/{str(row['doc_hash'])[:16]}#{row['doc_id']}" for row in own)
    raw = [row[metric] for row in own]
    several = [_numbers(value) for value in raw]
    if not own or any(numbers is None or not numbers for numbers in several):
        return _Documents(names, None, False)
    lists = [numbers for numbers in several if numbers is not None]
    flat = np.array([value for numbers in lists for value in numbers], dtype=np.float64)
    sums = np.array([sum(numbers) for numbers in lists], dtype=np.float64)
    share = bool(np.all((flat >= 0) & (flat <= 1)))
    return _Documents(names, sums * (len(lists) / flat.size), share)


def _numbers(value: JsonValue) -> list[float] | None:
    """A document's number or numbers; None for anything else, such as a pair of texts."""
    items = value if isinstance(value, list) else [value]
    return [float(item) for item in items] if all(isinstance(item, int | float) for item in items) else None


def _checked(documents: _Documents, number: float) -> _Documents:
    """Without values where their mean is not lm-eval's number."""
    values = documents.values
    if values is None or not abs(values.mean() - number) <= CLOSE * max(1.0, abs(number)):
        return _Documents(documents.names, None, False)
    return documents


def _joined(rows: dict[str, list[JsonObject]], key: str, number: float) -> _Documents:
    """A group's documents: each once, or each task once, whichever gives lm-eval's number."""
    parts = [_documents(name, of_task, key) for name, of_task in rows.items()]
    parts = [part for part in parts if part.names]
    names = tuple(name for part in parts for name in part.names)
    known = [part.values for part in parts if part.values is not None]
    share = all(part.share for part in parts)
    if not parts or len(known) < len(parts):
        return _Documents(names, None, False)
    by_document = _checked(_Documents(names, np.concatenate(known), share), number)
    if by_document.values is not None:
        return by_document
    weighted = [values * (len(names) / (len(known) * values.size)) for values in known]
    return _checked(_Documents(names, np.concatenate(weighted), share), number)
