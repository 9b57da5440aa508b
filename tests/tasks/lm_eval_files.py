"""What lm-eval gives for tasks, without lm-eval: results with samples, as its evaluate returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Values = Mapping[str, Sequence[Any]]
"""By METRIC,FILTER, of each document."""


def samples(task: str, values: Values) -> list[dict[str, Any]]:
    """A row for each document and filter."""
    filters = dict.fromkeys(key.rpartition(",")[2] for key in values)
    rows = []
    for name in filters:
        own = {key.rpartition(",")[0]: of for key, of in values.items() if key.endswith(f",{name}")}
        for i in range(len(next(iter(own.values())))):
            rows.append({
                "doc_id": i, "doc": {"question": f"{task} {i}"}, "target": "x", "arguments": [(f"{task} {i}", {})],
                "resps": [["y"]], "filtered_resps": ["y"], "filter": name, "metrics": list(own),
                "doc_hash": f"{task}{i:060d}", "prompt_hash": "p", "target_hash": "t",
                **{metric: of[i] for metric, of in own.items()},
            })  # fmt: skip
    return rows


def results(
    tasks: Mapping[str, tuple[Values, Mapping[str, float]]],
    groups: Mapping[str, Mapping[str, float]] | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Of each task the values of its documents and lm-eval's numbers; of each group its numbers. data: a file."""
    numbers = {
        name: {"name": name, "alias": name, "sample_len": 1} | dict(of) | {"acc_stderr,none": "N/A"}
        for name, (_, of) in tasks.items()
    }
    found = {name: {"name": name, **of} for name, of in (groups or {}).items()}
    return {
        "results": numbers,
        **({"groups": found} if found else {}),
        "group_subtasks": {name: list(tasks) for name in found},
        "configs": {name: {"dataset_path": "json", "dataset_kwargs": {"data_files": data}} for name in tasks},
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 2),
        "higher_is_better": {name: {"acc": True, "loss": False} for name in [*tasks, *found]},
        "n-samples": {name: {"original": 3, "effective": 3} for name in tasks},
        "samples": {name: samples(name, values) for name, (values, _) in tasks.items()},
    }
