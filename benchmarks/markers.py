"""The audit's markers: seconds, markers that are found where there are none, and how often a real one is found.

    python -m benchmarks.markers ultrafeedback/train.jsonl

Rows have `chosen` and `rejected`. Where there are none: 200 of the pairs, whose sides a coin chooses; and the same
where the longer is chosen in 75 %, so that what long texts say is commoner among the chosen. A real one: 200 of the
pairs as they are; found is the first marker of the whole file.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from trimtab.audit.markers import find_markers

PAIRS = 200


def main(
    data: Path, repeats: Annotated[int, typer.Option(help="Data sets of each kind.")] = 500, seed: int = 0
) -> None:
    """Prints one JSON object."""
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").split("\n") if line]
    pairs = [(row["chosen"], row["rejected"]) for row in rows if row["chosen"] != row["rejected"]]
    start = time.process_time()
    ups, _, tested = find_markers(pairs)
    seconds = time.process_time() - start
    first = ups[0].text
    rng = np.random.default_rng(seed)
    counts = {"coin": 0, "length": 0, "found": 0}
    for _ in range(repeats):
        some = [pairs[i] for i in rng.choice(len(pairs), PAIRS, replace=False)]
        ordered = [sorted(pair, key=len, reverse=True) for pair in some]
        for kind, chance in (("coin", 0.5), ("length", 0.75)):
            sides = [(a, b) if rng.random() < chance else (b, a) for a, b in ordered]
            counts[kind] += any(m.significant for side in find_markers(sides)[:2] for m in side)
        counts["found"] += any(m.significant and first in (m.text, *m.also) for m in find_markers(some)[0])
    report = {"pairs": len(pairs), "cpu_seconds": round(seconds, 2), "tested": tested, "first": first}
    print(json.dumps(report | {"repeats": repeats, "pairs_each": PAIRS} | counts))


if __name__ == "__main__":
    typer.run(main)
