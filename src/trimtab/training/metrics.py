"""metrics.jsonl: one row per logged step, under TRL's names (docs/metrics.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends rows to a file. A resumed run drops the rows past its checkpoint, so that no step of a
    curve is there twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Keeps rows up to `step` (and no half-written line)."""
        if not self.path.exists():
            return
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        aside = self.path.with_suffix(".tmp")
        aside.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        aside.replace(self.path)

    def write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as out:
            out.write(_line(row))


def _line(row: Mapping[str, Any]) -> str:
    """JSON has no NaN: a value that is no number is written as null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # half a line: the process was killed while it wrote
    return rows


class Means:
    """Weighted means of metrics over the passes of a step: adds (sum, weight) by name. Of a name that ends in
    /max it keeps the largest value."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, tuple[float, float]]) -> None:
        for name, (total, weight) in values.items():
            if name.endswith("/max"):
                largest = max(total, self.sums.get(name, [total])[0])
                self.sums[name] = [largest, 1.0]
                continue
            entry = self.sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight

    def means(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self.sums.items() if weight}

    @staticmethod
    def merge(parts: Iterable[dict[str, list[float]]]) -> Means:
        out = Means()
        for part in parts:
            out.add({name: (values[0], values[1]) for name, values in part.items()})
        return out
