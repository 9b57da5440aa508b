"""metrics.jsonl: one row per logged step, under TRL's names (docs/metrics.md)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash

from trimtab.files import append_text, checksum, write_text, writing
from trimtab.json_types import JsonObject


class MetricsLog:
    """Appends rows to a file. A resumed run drops the rows past its checkpoint, so that no step of a
    curve is there twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest: xxhash.xxh3_128 | None = None
        self._bytes = 0

    def mark(self) -> tuple[int, str]:
        """What a checkpoint keeps of the file: its bytes and their checksum."""
        digest = self._digest_so_far()
        return self._bytes, digest.hexdigest()

    def rewind(self, step: int, mark: tuple[int, str] | None = None) -> str | None:
        """Keeps rows up to `step`, and no half-written line: by the checkpoint's mark the very bytes.

        Returns what became of the file in the meantime, in words, where a part is lost.
        """
        self._digest = None
        if not self.path.exists():
            return f"{self.path}: is gone, and its rows up to step {step} with it" if mark and mark[0] else None
        if mark and self.path.stat().st_size >= mark[0] and checksum(self.path, mark[0]) == mark[1]:
            with writing(self.path):
                os.truncate(self.path, mark[0])
            return None
        rows, broken = _parse(self.path)
        write_text(self.path, "".join(_line(row) for row in rows if row["step"] <= step))
        if broken:
            lines = ", ".join(map(str, broken[:5])) + (", …" if len(broken) > 5 else "")
            return f"{self.path}: line {lines} cannot be read and is lost; the others are kept"
        return f"{self.path}: was changed since the checkpoint; it is kept as it is" if mark else None

    def write(self, row: Mapping[str, object]) -> None:
        """Appends one row, and syncs it."""
        digest = self._digest_so_far()
        line = _line(row)
        append_text(self.path, line)
        digest.update(line.encode())
        self._bytes += len(line.encode())

    def _digest_so_far(self) -> xxhash.xxh3_128:
        """Of what the file holds, which is read once."""
        if self._digest is None:
            self._digest = xxhash.xxh3_128(self.path.read_bytes() if self.path.exists() else b"")
            self._bytes = self.path.stat().st_size if self.path.exists() else 0
        return self._digest


def _line(row: Mapping[str, object]) -> str:
    """JSON has no NaN: a value that is no number is written as null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean) + "\n"


def read_metrics(path: Path) -> list[JsonObject]:
    """The rows of a file of metrics; a line that is broken is left out. Without a file there are none."""
    return _parse(path)[0] if path.is_file() else []


def _parse(path: Path) -> tuple[list[JsonObject], list[int]]:
    """Rows, and the numbers of lines that are none. Half a line at the end is no fault: there the process was
    killed while it wrote."""
    rows, broken = [], []
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, last], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif number <= len(lines):
            broken.append(number)
    return rows, broken


class Means:
    """Weighted means of metrics over the passes of a step: adds (sum, weight) by name. Of a name that ends in
    /max it keeps the largest value."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, tuple[float, float]]) -> None:
        """Adds (sum, weight) of each name; of a name that ends in /max it keeps the largest."""
        for name, (total, weight) in values.items():
            if name.endswith("/max"):
                largest = max(total, self.sums.get(name, [total])[0])
                self.sums[name] = [largest, 1.0]
                continue
            entry = self.sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight

    def means(self) -> dict[str, float]:
        """The mean of each name that has a weight."""
        return {name: total / weight for name, (total, weight) in self.sums.items() if weight}

    @staticmethod
    def merge(parts: Iterable[dict[str, list[float]]]) -> Means:
        """The sums of several processes or windows, added up."""
        out = Means()
        for part in parts:
            out.add({name: (values[0], values[1]) for name, values in part.items()})
        return out
