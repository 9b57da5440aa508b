"""KTO's labelled completions, made pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trimtab.data.message import Prompt
from trimtab.data.records import Record
from trimtab.errors import TrimtabError


def pair_by_label(records: Sequence[Record], source: str = "") -> tuple[list[Record], int]:
    """Makes pairs of desirable and undesirable completions of equal prompts, in the order of the rows, each used
    once; gives the pairs, and how many found no partner. Records without labels stay as they are."""
    waiting: dict[tuple[Prompt, bool], list[Record]] = {}
    out: list[Record] = []
    for record in records:
        if not record.is_unpaired:
            out.append(record)
            continue
        assert record.labels is not None
        good = record.labels[0]
        partners = waiting.get((record.prompt, not good))
        if not partners:
            waiting.setdefault((record.prompt, good), []).append(record)
            continue
        other = partners.pop(0)
        chosen, rejected = (record, other) if good else (other, record)
        both = (*chosen.completions, *rejected.completions)
        origin = f"{chosen.origin} with {rejected.origin}"
        out.append(replace(chosen, completions=both, labels=(True, False), origin=origin))
    if not out:
        raise TrimtabError(
            f"data {source}: pair_labels finds no prompt with both a desirable and an undesirable completion "
            f"among the {len(records)} labelled rows, so there are no pairs to train on."
        )
    return out, len(records) - sum(1 + (r.labels is not None) for r in out)
