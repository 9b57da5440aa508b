"""lm-eval's samples_TASK_DATE.jsonl, written with --log_samples: a row for each document and filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from trimtab.data.fields import BadRowError
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.notices import warn
from trimtab.readers import tables
from trimtab.readers.columns import Reading, value_at
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.readers.values import completion_read, key_read, score_read

OWN = {"doc_id", "filtered_resps", "resps"}
"""Columns that only its rows have."""


def suits(path: Path) -> bool:
    """Whether the first row of a .jsonl file is one of lm-eval's, or samples lie below a folder."""
    if path.is_dir():
        return bool(_files(path))
    if not path.is_file() or not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return False
    first = next((row for row in tables.first_rows(path) if isinstance(row, dict)), {})
    return first.keys() >= OWN


def _files(path: Path) -> list[Path]:
    """Below what --output_path names lies a folder of the model's name."""
    return sorted([*path.glob("samples_*.jsonl"), *path.glob("*/samples_*.jsonl")])


def read(path: Path, asked: Reading) -> list[MethodRows]:
    """The documents of one task, scored by its first metric or by `--map score=METRIC`; of several filters the
    first.

    The prompt is the one that the model was given, with its examples.
    """
    if path.is_dir():
        folder, files = path, _files(path)
        if len(files) > 1:
            raise TrimtabError(f"{path}: {len(files)} files of samples. Name one, such as {files[0]}.")
        [method] = read(files[0], asked)
        method.name = folder.resolve().name
        return [method]
    rows = [row for row in tables.rows_of(path) if isinstance(row, dict)]
    filters = list(dict.fromkeys(str(row.get("filter")) for row in rows))
    named = next((list(row["metrics"]) for row in rows if row.get("metrics")), [])
    metric = asked.mapping.get("score", named[0] if named else "")
    if not metric or not any(value_at(row, metric) is not None for row in rows):
        raise TrimtabError(
            f"{path}: no metric {metric!r}. It has: {', '.join(named) or 'none'} (--map score=METRIC)."
        )
    others = [name for name in named if name != metric]
    if others or len(filters) > 1:
        of_filter = f", filter {filters[0]}" if len(filters) > 1 else ""
        left = [*others, *(f"filter {name}" for name in filters[1:])]
        warn(f"{path.name}: scored by {metric}{of_filter}; left out: {', '.join(left)}", about=f"metric of {path}")
    read_rows, unreadable = [], Counter[str]()
    for row in rows:
        if str(row.get("filter")) != filters[0]:
            continue
        try:
            read_rows.append(_row(row, metric))
        except BadRowError as error:
            unreadable[str(error)] += 1
    name = tables.stem(path)
    return [MethodRows(name, read_rows, str(path), judge=f"lm-eval's {metric}", unreadable=unreadable)]


def _row(row: JsonObject, metric: str) -> Row:
    read_value = score_read(value_at(row, metric))
    # The hash tells documents apart also where their numbers are another split's.
    key = key_read(row.get("doc_id"))
    return Row(key, _prompt(row.get("arguments")), Side(_answer(row), read_value.score, read_value.reason))


def _prompt(arguments: JsonValue) -> str | None:
    """The first argument of the first request: {"gen_args_0": {"arg_0": prompt, …}}, or a list of lists."""
    first = next(iter(arguments.values()), None) if isinstance(arguments, Mapping) else arguments
    if isinstance(first, list) and first and isinstance(first[0], list):
        first = first[0]
    value = (
        first.get("arg_0")
        if isinstance(first, Mapping)
        else (first[0] if isinstance(first, list) and first else None)
    )
    return str(value) if value is not None else None


def _answer(row: JsonObject) -> str | None:
    """What was generated; of a choice by likelihood there is no text."""
    answers: JsonValue = row.get("resps")
    while isinstance(answers, list) and answers and isinstance(answers[0], list):
        answers = answers[0]
    one = answers[0] if isinstance(answers, list) and answers else None
    is_likelihood = isinstance(answers, list) and len(answers) == 2 and str(answers[1]) in ("True", "False")
    return completion_read(one) if isinstance(one, str) and not is_likelihood else None
