"""What columns are called: trimtab's names, those that other people's files have, and what --map says.

To read one more name, add it to its row of FIELDS; to read one more pair of sides in a row, a row of SIDES.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonValue

FIELDS: dict[str, tuple[str, ...]] = {
    "id": (
        "id", "prompt_id", "prompt_index", "question_id", "instruction_id", "doc_id", "example_id", "sample_id",
        "index", "idx", "key", "uid",
    ),
    "prompt": ("prompt", "instruction", "question", "input", "query"),
    "completion": ("completion", "response", "output", "answer", "generation", "model_output", "conversation"),
    "score": ("score", "reward", "rating", "judge_score", "grade"),
    "tokens": ("tokens", "n_tokens"),
    "characters": ("characters", "chars", "length_in_characters"),
    "terminated": ("terminated",),
    "method": ("method", "model", "generator", "model_name", "policy"),
    "judge": ("judge", "annotator"),
    "preference": ("preference",),
    "winner": ("winner", "preferred", "preferred_model"),
    "person": ("person", "rater", "labeller", "voter", "user"),
    "seed": ("seed",),
    "random": ("random",),
}  # fmt: skip
"""By trimtab's name, the names that a column may have; the first that is there is read."""
SIDES = (
    ("a", "b"), ("left", "right"), ("2", "1"), ("model", "reference"), ("model", "baseline"), ("model", "opponent"),
    ("method", "opponent"), ("candidate", "baseline"), ("policy", "reference"), ("", "reference"),
    ("", "opponent"), ("", "baseline"),
)  # fmt: skip
"""How a row's two answers are told apart, the method's first: score_a and score_b, output_2 and output_1.
AlpacaEval's second is the model, which a preference of 2 prefers."""
TWO_SIDED = ("completion", "score", "tokens", "characters", "method")
OPPONENT = "opponent_"
NAMES = [*FIELDS, *(OPPONENT + name for name in TWO_SIDED)]
"""What --map may name."""


def mapping_of(words: Sequence[str]) -> dict[str, str]:
    """`--map score=reward`, several or with commas between. TrimtabError for a name that is none."""
    mapping: dict[str, str] = {}
    for word in (part.strip() for text in words for part in text.split(",")):
        name, mark, column = (part.strip() for part in word.partition("="))
        name = OPPONENT + "method" if name == "opponent" else name
        if not mark or not column or name not in NAMES:
            raise TrimtabError(f"--map {word}: write NAME=COLUMN with a name of {', '.join(NAMES)}.")
        mapping[name] = column
    return mapping


def columns_for(present: Collection[str], mapping: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, str]]:
    """Which column holds what, by trimtab's names; and what the two sides of a row are called, ("", "") where it
    has one. present: the columns that rows have. TrimtabError where --map names one that is not there."""
    found, sides = _two_sided(present)
    for name, aliases in FIELDS.items():
        if name not in found:
            column = next((alias for alias in aliases if alias in present), None)
            if column is not None and column not in found.values():
                found[name] = column
    for name, column in mapping.items():
        if column in present or column.split(".")[0] in present:
            found[name] = column
        elif name not in found:  # of several files each may call it otherwise
            raise TrimtabError(f"--map {name}={column}: there is no such column. There are: {', '.join(present)}.")
    return found, sides


@dataclass(frozen=True)
class Reading:
    """What a command says of how its sources are read. mapping: columns by trimtab's names. opponent: the name that
    win rates are against, for sources that hold battles of many."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    opponent: str | None = None


def _two_sided(present: Collection[str]) -> tuple[dict[str, str], tuple[str, str]]:
    for ours, theirs in SIDES:
        found: dict[str, str] = {}
        for name in TWO_SIDED:
            pairs = ((_of(alias, ours, present), _of(alias, theirs, present)) for alias in FIELDS[name])
            pair = next(((own, other) for own, other in pairs if own and other and own != other), None)
            if pair is not None:
                found[name], found[OPPONENT + name] = pair
        if found:
            return found, (ours, theirs)
    return {}, ("", "")


def _of(alias: str, side: str, present: Collection[str]) -> str | None:
    """score_a, a_score or, of a side without a name, score."""
    names: Iterable[str] = (f"{alias}_{side}", f"{side}_{alias}") if side else (alias,)
    return next((name for name in names if name in present), None)


def value_at(row: Mapping[str, JsonValue], column: str | None) -> JsonValue:
    """What a column holds; "scores.helpful" is the key of an object, unless a column is called so. None where
    nothing is there."""
    if column is None or column in row:
        return row.get(column) if column is not None else None
    value: JsonValue = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
