"""People's labels: rows that say which of two answers is better, or what one answer is worth, and whose they are.

The columns have the names that any table's may have (columns.py), and docs/labels.md lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from trimtab.data.fields import BadRowError
from trimtab.data.vote_file import CastVote, is_vote_file, read_votes
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.readers.annotations import judgements_in
from trimtab.readers.columns import OPPONENT, columns_for
from trimtab.readers.tables import GUESSED, Columns, asked_before, name_read, preference_of, rows_of
from trimtab.readers.values import completion_read, key_read, prompt_read, score_read, whole_read, winner_read

SKIPPED = {"skip", "skipped"}
"""What a winner is called where a person gave none."""
OF_LABELS = {"winner", "preference", "person", "seed", "random"}
NOBODY = "?"
"""Who labelled, where no column says it: one person."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One judgement of a file. first, second: methods, as the file calls them; None where it names none. share: of
    the first's. texts: both completions, where the file has them. seed: the training seed that answered."""

    key: str | None
    prompt: str | None
    first: str | None
    second: str | None
    share: float
    person: str
    seed: int | None
    texts: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True, slots=True)
class _Scored:
    """One answer's score by one person."""

    key: str | None
    prompt: str | None
    method: str
    score: float
    person: str
    seed: int | None
    text: str | None


@dataclass
class LabelFile:
    """rows: judgements, in their order. unreadable, skipped, not_random: rows that were left out, by why. cast: all
    votes of a file of votes."""

    rows: list[LabelRow] = field(default_factory=list)
    unreadable: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    not_random: int = 0
    cast: list[CastVote] = field(default_factory=list)


def read_labels(path: Path, mapping: Mapping[str, str], pair: tuple[str, str] | None = None) -> LabelFile:
    """The judgements of a file. mapping: columns by trimtab's names, as of --map. pair: the two methods of rows
    that name none, where only two are compared. TrimtabError where there is no file, or no column says what was
    judged."""
    check_labels(path)
    if is_vote_file(path):
        return labels_cast(read_votes(path))
    rows = rows_of(path)
    good = [judged for row in rows if isinstance(row, dict) for judged in judgements_in(row)]
    present = list(dict.fromkeys(name for row in good for name in row))
    told = {name: column for name, column in mapping.items() if column.split(".")[0] in present}
    found, sides = columns_for(present, told)
    if OPPONENT + "method" not in found and "opponent" in present:
        found[OPPONENT + "method"] = "opponent"
    if not found.keys() & {"preference", "winner", "score"}:
        raise TrimtabError(
            f"{path}: no labels. A row needs a winner, a preference or a score. Columns found: "
            f"{', '.join(present) or 'none'}. Say what they are called: --map winner=better,person=who."
        )
    columns = Columns(found, sides, _from_one(good, found))
    file = LabelFile(unreadable=Counter(str(row) for row in rows if isinstance(row, BadRowError)))
    scores: list[_Scored] = []
    for row in good:
        try:
            _read_row(row, columns, pair, file, scores)
        except BadRowError as error:
            file.unreadable[str(error)] += 1
    file.rows += _pairs(scores)
    return file


def check_labels(path: Path | str | None) -> None:
    """TrimtabError where a file is named that is not there."""
    if path is not None and not Path(path).expanduser().is_file():
        raise TrimtabError(
            f"{path}: no such file. Give people's labels as rows of JSONL, JSON, CSV or Parquet, "
            "or trimtab prefer's file of votes (.sqlite)."
        )


def labels_cast(votes: Sequence[CastVote]) -> LabelFile:
    """The judgements that votes are. What a person skipped is none; what chance did not choose, for training or on
    a prompt of one's own, says nothing of all prompts."""
    file = LabelFile(cast=list(votes))
    for vote in votes:
        item = vote.item
        if item.purpose != "random":
            file.not_random += 1
        elif vote.share is None:
            file.skipped += 1
        else:
            texts = (item.first_completion, item.second_completion)
            file.rows.append(
                LabelRow(
                    item.prompt_id or None, item.prompt or None, item.first, item.second, vote.share, vote.person,
                    item.seed, texts,
                )
            )  # fmt: skip
    return file


def without_labels(mapping: Mapping[str, str], path: Path) -> dict[str, str]:
    """What --map says of the sources: without what is said of labels alone, where these have the column."""
    if is_vote_file(path):
        return dict(mapping)
    present = {name for row in rows_of(path) if isinstance(row, dict) for name in row}
    return {
        name: column
        for name, column in mapping.items()
        if name not in OF_LABELS or column.split(".")[0] not in present
    }


def _from_one(rows: Sequence[JsonObject], found: Mapping[str, str]) -> bool:
    """Whether preferences run from 1 to 2."""
    if "preference" not in found:
        return False
    values = [row.get(found["preference"]) for row in rows]
    return any(isinstance(value, (int, float)) and value > 1 for value in values)


def _read_row(
    row: JsonObject, columns: Columns, pair: tuple[str, str] | None, file: LabelFile, scores: list[_Scored]
) -> None:
    if columns.at(row, "random") in (False, 0, "false", "False", "0", "no"):
        file.not_random += 1
        return
    key, prompt = key_read(columns.at(row, "id")), prompt_read(columns.at(row, "prompt"))
    prompt = prompt_read(asked_before(columns.at(row, "completion"))) if prompt is None else prompt
    if key is None and prompt is None:
        raise BadRowError("a label needs the prompt's id or text")
    who = name_read(columns.at(row, "person")) or name_read(columns.at(row, "judge")) or NOBODY
    seed = whole_read(columns.at(row, "seed"))
    first, second = (name_read(columns.at(row, name)) for name in ("method", OPPONENT + "method"))
    texts = tuple(completion_read(columns.at(row, name)) for name in ("completion", OPPONENT + "completion"))
    if columns.found.keys() & {"preference", "winner"}:
        share = _share(row, columns, first, second, pair)
        if share is None:
            file.skipped += 1
            return
        file.rows.append(LabelRow(key, prompt, first, second, share, who, seed, (texts[0], texts[1])))
        return
    values = [score_read(columns.at(row, name)).score for name in ("score", OPPONENT + "score")]
    if values[0] is None:
        file.skipped += 1
    elif OPPONENT + "score" in columns.found:
        if values[1] is None:
            file.skipped += 1
            return
        share = _better(values[0], values[1])
        file.rows.append(LabelRow(key, prompt, first, second, share, who, seed, (texts[0], texts[1])))
    elif first is None:
        raise BadRowError("a score needs a method: whose answer it is of")
    else:
        scores.append(_Scored(key, prompt, first, values[0], who, seed, texts[0]))


def _share(
    row: JsonObject, columns: Columns, first: str | None, second: str | None, pair: tuple[str, str] | None
) -> float | None:
    winner = columns.at(row, "winner")
    if isinstance(winner, str) and winner.strip().casefold() in SKIPPED:
        return None
    if first is None and (pair is None or columns.sides in GUESSED):
        raise BadRowError("no methods' names: give columns method and opponent, or method_left and method_right")
    if first is None and pair is not None and "preference" not in columns.found:
        return winner_read(winner, [pair[0]], [pair[1]])
    return preference_of(row, columns, first or "", second or "opponent")[0]


def _better(ours: float, theirs: float) -> float:
    return 0.5 if ours == theirs else float(ours > theirs)


def _pairs(scores: Sequence[_Scored]) -> list[LabelRow]:
    """Of one person's scores of answers to one prompt, who is better of each two."""
    groups: dict[tuple[str | None, str | None, str, int | None], list[_Scored]] = {}
    for one in scores:
        groups.setdefault((one.key, one.prompt if one.key is None else None, one.person, one.seed), []).append(one)
    return [
        LabelRow(
            one.key, one.prompt, one.method, other.method, _better(one.score, other.score), person, seed,
            (one.text, other.text),
        )
        for (_, _, person, seed), group in groups.items()
        for one, other in combinations(group, 2)
        if one.method != other.method
    ]  # fmt: skip
