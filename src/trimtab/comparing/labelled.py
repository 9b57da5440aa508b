"""People's labels of what is compared: `trimtab compare --labels`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trimtab.comparing.join import Joined
from trimtab.comparing.sides import Sides
from trimtab.evaluation.summary import StudyOutputs
from trimtab.readers.votes import labels_of


def labelled(sides: Sides, path: Path, mapping: Mapping[str, str]) -> StudyOutputs:
    """The outputs with a file's labels. TrimtabError where no label is of them."""
    return replace(
        sides.outputs,
        labels=labels_of(
            path,
            sides.outputs,
            sides.start,
            mapping=mapping,
            aliases=_ids_of_sources(sides.joined),
            one_sample=all(len(rows) == 1 for group in sides.joined.rows for rows in group.values()),
        ),
    )


def _ids_of_sources(joined: Joined) -> dict[str, str]:
    """Of prompts that are joined by their texts, the ids that sources have for them; none that stands for two."""
    found: dict[str, set[str]] = {}
    for group in joined.rows:
        for key, rows in group.items():
            for row in rows:
                if row.key is not None:
                    found.setdefault(row.key, set()).add(key)
    return {alias: keys.pop() for alias, keys in found.items() if len(keys) == 1}
