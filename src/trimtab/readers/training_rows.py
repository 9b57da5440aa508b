"""Rows in the layouts of training data (data/layouts.py): chosen beside rejected answers, answers with KTO's
labels, conversations. Of pairs the chosen answers are the method, the rejected ones its opponent: what a judge
makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trimtab.data.fields import BadRowError
from trimtab.data.layouts import Content, layout_of
from trimtab.data.records import OWN_COLUMNS
from trimtab.json_types import JsonObject
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.readers.values import completed, key_read

CHOSEN, REJECTED = "chosen answers", "rejected answers"


def methods_of(rows: Sequence[JsonObject | BadRowError], path: Path) -> list[MethodRows]:
    """One method: the chosen answers, or the file's only ones; none where no row has an answer in such a layout."""
    read, unreadable, pairs = [], Counter[str](), False
    for row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            content = layout_of(row).read(row)
            if not content.completions:
                continue
        except BadRowError as error:
            unreadable[str(error)] += 1
            continue
        pairs = pairs or len(content.completions) > 1
        read.append(_row(row, content))
    if not read:
        return []
    name = CHOSEN if pairs else path.name.partition(".")[0]
    return [MethodRows(name, read, str(path), REJECTED if pairs else None, unreadable=unreadable)]


def _row(row: JsonObject, content: Content) -> Row:
    whole = completed(content.prompt, row.get("system"))
    prompt, turns = (whole, ()) if isinstance(whole, str) else (whole[-1].content, whole)
    scores: list[float | None] = list(content.scores or map(float, content.labels or ()))
    scores += [None] * (len(content.completions) - len(scores))
    sides = [Side(text, score) for text, score in zip(content.completions, scores, strict=True)]
    others = {name: value for name, value in row.items() if name not in OWN_COLUMNS}
    opponent = sides[-1] if len(sides) > 1 else None
    return Row(key_read(row.get("id")), prompt, sides[0], opponent, turns=turns, columns=others)
