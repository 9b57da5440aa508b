"""What the report counts of a stage's rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trimtab.data.splits import DataSettings, split_records
from trimtab.study.collect import splits_in


def test_the_values_of_split_by_are_no_split(write_jsonl: Callable[..., Path]) -> None:
    """A study whose prompts are split by a column ended without a report."""
    rows = [{"prompt": f"Ask {i}.", "kind": f"kind {i % 8}"} for i in range(32)]
    source = str(write_jsonl(rows))
    settings = DataSettings(train=source, split_by="kind", validation_share=0.25, test_share=0.25)
    notes = split_records(settings).notes()
    assert notes["values"]
    rows_of = {"train": {"rows": 16, "used": 16}, "validation": {"rows": 0, "used": 0}}
    assert splits_in({**rows_of, **notes}) == {"train": rows_of["train"]}
