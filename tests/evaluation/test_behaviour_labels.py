"""How often the rules of behaviours.py are right, on real completions that a reader labelled without them.

labelled/behaviours.csv has a line a completion: the first 16 hexadecimal digits of its SHA-256, where it is from,
for which behaviour it was drawn, and the labels. Its text is looked up in the shared data, or in
labelled/smollm2.jsonl. Even numbers tuned the rules; odd ones are reported here and in docs/metrics.md. Of hedging
all that were labelled before tuned them; those that were drawn "blind" after its last change are reported.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from trimtab.evaluation.behaviours import BEHAVIOURS

LABELS = Path(__file__).parent / "labelled"
REPORTED = {"hedging": (54, 9, 9), "meta_commentary": (73, 4, 3), "loops": (41, 10, 5)}
"""Found rightly, found wrongly, missed."""


def texts(value: Any) -> Iterator[str]:
    """Every string in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def values(shared: Path) -> Iterator[Any]:
    """The rows of the sources that completions were drawn from."""
    data = shared / "data"
    lines = [*(data / "ultrafeedback").glob("*.jsonl"), *(data / "nemotron_scores").glob("*.jsonl")]
    for file in [*lines, data / "other_formats/hh_prompt_chosen_rejected.jsonl", LABELS / "smollm2.jsonl"]:
        yield from map(json.loads, file.read_text(encoding="utf-8").strip().split("\n"))
    with gzip.open(data / "best_of_16/bon16.jsonl.gz", "rt", encoding="utf-8") as rows:
        yield from map(json.loads, rows)
    for file in (data / "other_formats/kto.json", data / "other_formats/sharegpt_dpo.json"):
        yield json.loads(file.read_text(encoding="utf-8"))


def is_reported(row: dict[str, str], name: str) -> bool:
    """Whether a label had no part in making the rule."""
    return row["drawn"] == "hedging, blind" if name == "hedging" else int(row["id"], 16) % 2 == 1


def test_rules_on_labelled_completions(shared_data: Path) -> None:
    with (LABELS / "behaviours.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted, found = {row["id"] for row in rows}, dict[str, str]()
    for text in texts(list(values(shared_data))):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if digest in wanted:
            found[digest] = text
    assert found.keys() == wanted
    for name, expected in REPORTED.items():
        known = [row for row in rows if row[name] and is_reported(row, name)]
        pairs = [(row[name] == "1", bool(BEHAVIOURS[name].rule("", found[row["id"]]))) for row in known]
        right, wrong, missed = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False)))
        shares = [(right, right + wrong), (right, right + missed)]
        intervals = [binomtest(k, n).proportion_ci(method="wilson") for k, n in shares]
        said = [f"{k}/{n} [{i.low:.2f}, {i.high:.2f}]" for (k, n), i in zip(shares, intervals, strict=True)]
        print(f"{name} ({len(known)} completions): precision {said[0]}, recall {said[1]}")
        assert (right, wrong, missed) == pytest.approx(expected)
