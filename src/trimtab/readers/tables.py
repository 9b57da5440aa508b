"""Rows of JSONL, JSON, CSV and Parquet: prompts with completions and scores, two answers in a row, preferences.

AlpacaEval's outputs and annotations are such rows, and so are LMArena's battles; only names of columns differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from trimtab.data.fields import BadRowError
from trimtab.data.files import Line, local_rows
from trimtab.data.records import OWN_COLUMNS
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.readers import training_rows
from trimtab.readers.columns import OPPONENT, Reading, columns_for, value_at
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.readers.values import (
    completion_read,
    conversation_read,
    key_read,
    preference_read,
    prompt_read,
    score_read,
    whole_read,
    winner_read,
)

GUESSED = ("a", "b"), ("left", "right"), ("2", "1")
"""Sides that are told apart by a letter or a number: the names of these sides say nothing more."""
ALPACA = ("generator_1", "generator_2", "output_1", "output_2", "annotator", "raw_completion", "chars_baseline")


def suits(path: Path) -> bool:
    """Any file: whether it is one that can be read is said when it is."""
    return path.is_file()


def read(path: Path, asked: Reading) -> list[MethodRows]:
    """The methods of a file. TrimtabError where no row of it can be read."""
    return methods_of(rows_of(path), path, asked)


def first_rows(path: Path) -> list[JsonObject | BadRowError]:
    """The first row, as a list of one or none; no error for a file that can't be read."""
    try:
        return list(islice(_each_row(path), 1))
    except TrimtabError:
        return []


def rows_of(path: Path) -> list[JsonObject | BadRowError]:
    """All rows of a file, and in place of those that are none, why."""
    return list(_each_row(path))


def _each_row(path: Path) -> Iterator[JsonObject | BadRowError]:
    found = local_rows(str(path))
    assert found is not None  # a file that is there
    for _, row in found[1]:
        try:
            value = row.row() if isinstance(row, Line) else row
        except BadRowError as error:
            value = error
        if isinstance(value, BadRowError | dict):
            yield value
        else:
            yield BadRowError(f"a row must be an object with names, found {type(value).__name__}")


@dataclass(frozen=True)
class Columns:
    """How one file's rows are read. found: by trimtab's names. sides: what the two answers of a row are called.
    from_one: whether preferences run from 1 to 2."""

    found: Mapping[str, str]
    sides: tuple[str, str]
    from_one: bool

    def at(self, row: JsonObject, name: str) -> JsonValue:
        return value_at(row, self.found.get(name))

    def others(self, row: JsonObject) -> JsonObject:
        """The columns that are not read."""
        read = OWN_COLUMNS | {column.split(".")[0] for column in self.found.values()}
        return {name: value for name, value in row.items() if name not in read}

    @property
    def compares(self) -> bool:
        """Whether rows hold a judgement of two answers, or both answers."""
        return bool(self.found.keys() & {"preference", "winner", OPPONENT + "score", OPPONENT + "completion"})


def methods_of(rows: Sequence[JsonObject | BadRowError], path: Path, asked: Reading) -> list[MethodRows]:
    """The methods that rows of a file are of, in the order in which they come."""
    good = [row for row in rows if isinstance(row, dict)]
    present = list(dict.fromkeys(name for row in good for name in row))
    found, sides = columns_for(present, asked.mapping)
    if not found.keys() & {"completion", "score", "preference", "winner", OPPONENT + "score"}:
        if good and (answered := training_rows.methods_of(rows, path)):
            return answered
        raise TrimtabError(
            f"{path}: no completions, scores or preferences. Columns found: {', '.join(present) or 'none'}. Say "
            "what they are called: --map prompt=question,completion=text,score=reward."
        )
    columns = Columns(found, sides, _from_one(good, found, present))
    unreadable: Counter[str] = Counter(str(row) for row in rows if isinstance(row, BadRowError))
    scales: dict[str, str] = {}
    read_rows: list[_Read] = []
    for row in good:
        try:
            read_rows.append(_read_row(row, columns, path, scales))
        except BadRowError as error:
            unreadable[str(error)] += 1
    if len(scales) > 1:
        listed = " and ".join(f"{scale} ({example!r})" for scale, example in scales.items())
        raise TrimtabError(f"{path}: its scores are on different scales: {listed}. Write them on one.")
    read_rows = _one_opponent(read_rows, asked.opponent, path, unreadable)
    if not read_rows:
        why = f" ({unreadable.most_common(1)[0][0]})" if unreadable else ""
        raise TrimtabError(f"{path}: none of its {len(rows)} rows can be read{why}.")
    methods: dict[str, MethodRows] = {}
    for one in read_rows:
        of_name = methods.setdefault(one.method, MethodRows(one.method, [], str(path), one.opponent, one.judge))
        of_name.rows.append(one.row)
        if one.judge != of_name.judge:
            of_name.judge = "several judges"
    next(iter(methods.values())).unreadable = unreadable
    return list(methods.values())


class _Read(NamedTuple):
    """One row, with the names of what answered in it, and of who judged."""

    method: str
    opponent: str | None
    judge: str | None
    row: Row

    def turned_round(self) -> _Read:
        """The same with the sides changed."""
        row = self.row
        assert self.opponent is not None
        assert row.opponent is not None
        preference = None if row.preference is None else 1 - row.preference
        turned = replace(row, side=row.opponent, opponent=row.side, preference=preference)
        return _Read(self.opponent, self.method, self.judge, turned)


def _one_opponent(rows: list[_Read], asked: str | None, path: Path, unreadable: Counter[str]) -> list[_Read]:
    """Battles, in which either side may be anybody, as methods against one opponent: the one that is asked for, or
    of two the one that stands second more often. TrimtabError where there are more, and none is asked for."""
    opponents = Counter(row.opponent for row in rows if row.opponent is not None)
    names = {*opponents, *(row.method for row in rows)}
    if not opponents:
        return rows
    if asked not in names and len(opponents) > 1 and len(names) > 2:
        often = ", ".join(str(name) for name, _ in opponents.most_common(5))
        raise TrimtabError(
            f"{path}: battles of {len(names)} models. Name the one that win rates are against: --opponent NAME, "
            f"such as {often}."
        )
    opponent = asked if asked in names else opponents.most_common(1)[0][0]
    kept = []
    for row in rows:
        if row.method == row.opponent:
            unreadable["a battle of one with itself"] += 1
        elif opponent not in (row.method, row.opponent) and row.opponent is not None:
            unreadable[f"a battle without {opponent}"] += 1
        else:
            kept.append(row.turned_round() if row.method == opponent and row.opponent is not None else row)
    return kept


def _from_one(rows: Sequence[JsonObject], found: Mapping[str, str], present: Sequence[str]) -> bool:
    """Whether preferences are AlpacaEval's, from 1 to 2: one of them is above 1, or the file is AlpacaEval's."""
    if "preference" not in found:
        return False
    for row in rows:
        try:
            read_value = score_read(value_at(row, found["preference"]))
        except BadRowError:
            continue
        if read_value.score is not None and read_value.score > 1:
            return True
    return any(name in ALPACA for name in present)


def _read_row(row: JsonObject, columns: Columns, path: Path, scales: dict[str, str]) -> _Read:
    """scales: those of scores so far, with an example of each."""
    key, prompt = key_read(columns.at(row, "id")), prompt_read(columns.at(row, "prompt"))
    turns = conversation_read(columns.at(row, "prompt"), row.get("system"))
    if prompt is None and (conversation := asked_before(columns.at(row, "completion"))):
        prompt, turns = prompt_read(conversation), conversation_read(conversation, row.get("system"))
    name = name_read(columns.at(row, "method")) or _side_name(columns.sides[0]) or stem(path)
    side, judge = _side(row, columns, "", scales), name_read(columns.at(row, "judge"))
    if not columns.compares:
        return _Read(name, None, judge, Row(key, prompt, side, turns=turns, columns=columns.others(row)))
    other = name_read(columns.at(row, OPPONENT + "method")) or _side_name(columns.sides[1]) or "opponent"
    opponent = _side(row, columns, OPPONENT, scales)
    preference, judged = preference_of(row, columns, name, other)
    asked = Row(key, prompt, side, opponent, preference, judged, turns, columns.others(row))
    return _Read(name, other, judge, asked)


def preference_of(row: JsonObject, columns: Columns, name: str, other: str) -> tuple[float | None, bool]:
    """The share that `name` won of a judgement of both answers, None where that is missing; and whether the row has
    such a judgement. BadRowError for a winner that is neither."""
    if "preference" in columns.found:
        return preference_read(columns.at(row, "preference"), columns.from_one), True
    if "winner" not in columns.found:
        return None, False
    ours, theirs = columns.sides
    # Only a letter or a number stands for a side without its name.
    pairs = [(name, other)]
    if columns.sides in GUESSED:
        pairs += [(ours, theirs), (f"model_{ours}", f"model_{theirs}"), (f"response_{ours}", f"response_{theirs}")]
        pairs += [(f"output_{ours}", f"output_{theirs}"), (f"answer_{ours}", f"answer_{theirs}")]
    else:
        pairs += [(ours or "method", theirs or "opponent"), ("win", "loss"), ("model", "reference"), ("a", "b")]
    return winner_read(columns.at(row, "winner"), [o for o, _ in pairs], [t for _, t in pairs]), True


def _side(row: JsonObject, columns: Columns, prefix: str, scales: dict[str, str]) -> Side:
    scored = f"{prefix}score" in columns.found
    read_value = score_read(columns.at(row, f"{prefix}score"))
    if read_value.scale:
        scales.setdefault(read_value.scale, str(columns.at(row, f"{prefix}score"))[:20])
    ended = columns.at(row, "terminated") if not prefix else None
    return Side(
        completion=completion_read(columns.at(row, f"{prefix}completion")),
        score=read_value.score,
        reason=read_value.reason if scored else None,
        tokens=whole_read(columns.at(row, f"{prefix}tokens")),
        terminated=ended if isinstance(ended, bool) else None,
        characters=whole_read(columns.at(row, f"{prefix}characters")),
    )


def asked_before(conversation: JsonValue) -> JsonValue:
    """The prompt of a whole conversation: all but its last turn."""
    return conversation[:-1] if isinstance(conversation, list) and len(conversation) > 1 else None


def _side_name(side: str) -> str | None:
    """What a side is called where no column names its method; "model" says nothing that the file's name doesn't."""
    return None if side in ("", "model", "method", "1", "2") else side


def name_read(value: JsonValue) -> str | None:
    return str(value).strip() or None if value is not None and not isinstance(value, Mapping | list) else None


def stem(path: Path) -> str:
    """rows of rows.jsonl.gz."""
    name = path.name
    for suffix in (".gz", ".zst", ".jsonl", ".json", ".csv", ".parquet"):
        name = name.removesuffix(suffix)
    return name
