"""The rows of a split as completion groups, and what became of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

from trimtab.data.arrow_files import key_of
from trimtab.data.groups import CompletionGroup
from trimtab.data.pool import in_order, processes
from trimtab.data.records import Record
from trimtab.data.rows import READ_AHEAD, Dropped
from trimtab.data.signature import signature_of
from trimtab.data.stored_groups import batch_of, kept_groups
from trimtab.data.stored_records import BATCH, StoredRecords, digest_of
from trimtab.data.template_features import Rendering, ignored_of
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.progress import Progress


class SplitCounts(BaseModel):
    """What became of the rows of one split."""

    rows: int = 0
    used: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    dropped_rows: list[str] = Field(default_factory=list)
    """The first twenty, "file:row: reason"."""
    truncated: int = 0
    """Completions cut at the end, and so not taught to stop."""
    duplicates: int = 0
    """Rows equal to an earlier one; kept."""
    equal_scores: int = 0
    """Pairs whose scores tie; kept."""
    ignored: dict[str, int] = Field(default_factory=dict)
    """What rows hold and nothing reads, "column id", with the number of rows; the rows are kept."""
    remarks: dict[str, int] = Field(default_factory=dict)
    """What else was found in rows that are used, and in how many: control tokens in people's text, answers that the
    template shows otherwise."""

    def but_for(self, read: Callable[[str], bool]) -> SplitCounts:
        """The same without the columns that are read after all, by a method or a reward function."""
        kept = {name: n for name, n in self.ignored.items() if not read(name.removeprefix(COLUMN))}
        return self.model_copy(update={"ignored": kept})

    @property
    def summary(self) -> str:
        """One line: how many rows were used, what was dropped and what was not used; "" where it was all."""
        lost = [f"{n} × {reason}" for reason, n in self.dropped.items()]
        beside = [f"{name} ({n} rows)" for name, n in self.ignored.items()]
        parts = [f"{self.used} of {self.rows} rows used"]
        parts += [f"dropped: {', '.join(lost)}"] if lost else []
        parts += [f"not used: {', '.join(beside)}"] if beside else []
        return "; ".join(parts) if len(parts) > 1 else ""


COLUMN = "column "


class Encoder(Rendering, Protocol):
    """What makes groups of records: data/chat.py's ChatFormat, or a reward model's format. remarks: of the record
    that was encoded last."""

    remarks: set[str]

    def read_ahead(self, records: Sequence[Record]) -> None:
        """Makes ready for what `encode` will be given next: the same comes out, sooner."""

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped:
        """A record as token ids, truncated; or why it can't be used."""


Expansion = Callable[[Record], list[Record] | Dropped]
"""One row made several, or another; or why it can't be: data/conditions.py."""
CompletionsOf = Literal["first", "pair", "all", "labelled", "none"]
"""The best completion (SFT), best and worst (DPO), all that are ranked, all with a label each (KTO), or none
but the prompt (GRPO)."""


def encode_records(
    records: Sequence[Record], chat: Encoder, completions: CompletionsOf, expand: Expansion | None = None
) -> tuple[Sequence[CompletionGroup], SplitCounts]:
    """Records -> completion groups. Of labelled completions SFT takes the desirable ones; TrimtabError where pairs
    are wanted.

    expand: what is made of a record with the completions that the method trains on. A row is used whole, or not.
    Groups of records that are kept on the disk are kept beside them.
    """
    if completions in ("pair", "all"):
        _refuse_labels(records)
    encode = partial(_encode_part, records, chat, completions, expand)
    if isinstance(records, StoredRecords) and (signature := signature_of(chat, expand)) is not None:
        key = key_of(records.key, completions, signature)
        return _stored(records.source.folder.parent / f"tokens-{key}", len(records), encode)
    groups: list[CompletionGroup] = []
    tally = _Tally()
    with Progress("tokenizing", len(records)) as progress:
        for first in range(0, len(records), READ_AHEAD):
            part, counts, identities = encode(first, READ_AHEAD)
            groups += part
            tally.add(counts, identities)
            progress.advance(counts.rows)
    return groups, tally.counts()


def _stored(
    folder: Path, rows: int, encode: Callable[[int, int], _Encoded]
) -> tuple[Sequence[CompletionGroup], SplitCounts]:
    """The groups of so many records in a folder: those that it has, or as several processes make them."""
    tally = _Tally()

    def batches() -> Iterator[Any]:
        work = partial(_batch, encode)
        starts = range(0, rows, BATCH)
        for batch, counts, identities in in_order(work, starts, min(len(starts), processes())):
            tally.add(counts, identities)
            progress.advance(counts.rows)
            yield batch

    def about() -> JsonObject:
        return {"counts": tally.counts().model_dump()}

    with Progress("tokenizing", rows) as progress:
        groups, said = kept_groups(folder, batches, about)
    return groups, SplitCounts.model_validate(said["counts"])


def _batch(encode: Callable[[int, int], _Encoded], first: int) -> tuple[Any, SplitCounts, list[bytes]]:
    groups, counts, identities = encode(first, BATCH)
    return batch_of(groups), counts, identities


_Encoded = tuple[list[CompletionGroup], SplitCounts, list[bytes]]
"""Of a part of a split: its groups, what became of its rows, and what says which of them are equal."""


class _Tally:
    """The counts of a split, added up part by part in the order of the rows."""

    def __init__(self) -> None:
        self.sums = SplitCounts()
        self.seen: set[bytes] = set()

    def add(self, part: SplitCounts, identities: Sequence[bytes]) -> None:
        """Takes in a part's."""
        sums = self.sums
        for name in ("rows", "used", "truncated", "equal_scores"):
            setattr(sums, name, getattr(sums, name) + getattr(part, name))
        for name in ("dropped", "ignored", "remarks"):
            of_all = getattr(sums, name)
            for reason, n in getattr(part, name).items():
                of_all[reason] = of_all.get(reason, 0) + n
        sums.dropped_rows = [*sums.dropped_rows, *part.dropped_rows][:SHOWN]
        before = len(self.seen)
        self.seen.update(identities)
        sums.duplicates += len(identities) - (len(self.seen) - before)

    def counts(self) -> SplitCounts:
        """Of all parts."""
        named = {name: dict(sorted(getattr(self.sums, name).items())) for name in ("dropped", "ignored", "remarks")}
        return self.sums.model_copy(update=named)


def _encode_part(
    records: Sequence[Record],
    chat: Encoder,
    completions: CompletionsOf,
    expand: Expansion | None,
    first: int,
    size: int,
) -> _Encoded:
    """The groups of some records, those from `first` on."""
    part = list(records[first : first + size])
    groups: list[CompletionGroup] = []
    counts = SplitCounts(rows=len(part))
    identities: list[bytes] = []
    for index, record in enumerate(part, start=first):
        if expand is None and (index - first) % READ_AHEAD == 0:
            _read_ahead(part[index - first : index - first + READ_AHEAD], chat, completions)
        row = choose(record, completions)
        if completions == "first" and row.labels == (False,):
            _drop(counts, Dropped(UNDESIRABLE, row.origin))
            continue
        identities.append(digest_of(row.prompt, row.completions))
        if row.scores is not None and len(row.scores) > 1 and row.scores[0] == row.scores[-1]:
            counts.equal_scores += 1
        for name in ignored_of(row, chat):
            counts.ignored[name] = counts.ignored.get(name, 0) + 1
        encoded, remarks = _encode_row(row, index, chat, expand)
        if isinstance(encoded, Dropped):
            _drop(counts, encoded)
            continue
        for remark in remarks:
            counts.remarks[remark] = counts.remarks.get(remark, 0) + 1
        counts.truncated += sum(encoded[0].truncated)  # an expanded row says the same completions again
        counts.used += 1
        groups += encoded
    return groups, counts, identities


def _read_ahead(records: Sequence[Record], chat: Encoder, completions: CompletionsOf) -> None:
    with suppress(TrimtabError):  # it is raised when its row's turn comes
        chat.read_ahead([choose(record, completions) for record in records])


def _encode_row(
    row: Record, index: int, chat: Encoder, expand: Expansion | None
) -> tuple[list[CompletionGroup] | Dropped, set[str]]:
    """All groups of a row, or why it can't be used; and what is to be remarked on."""
    rows = [row] if expand is None else expand(row)
    remarks: set[str] = set()
    if isinstance(rows, Dropped):
        return rows, remarks
    groups: list[CompletionGroup] = []
    for expanded in rows:
        encoded = chat.encode(expanded, index)
        remarks |= chat.remarks
        if isinstance(encoded, Dropped):
            return encoded, remarks
        groups.append(encoded)
    return groups, remarks


SHOWN = 20
"""Dropped rows that are named."""
UNDESIRABLE = "labelled undesirable: nothing to imitate"


def _drop(counts: SplitCounts, row: Dropped) -> None:
    counts.dropped[row.reason] = counts.dropped.get(row.reason, 0) + 1
    if len(counts.dropped_rows) < SHOWN:
        counts.dropped_rows.append(f"{row.origin}: {row.reason}")


def check_completions(records: Sequence[Record], completions: CompletionsOf) -> None:
    """Checks that each record has the completions that a method trains on; TrimtabError where it lacks them."""
    if completions in ("pair", "all"):
        _refuse_labels(records)
    if isinstance(records, StoredRecords):  # of the others it is known that they have
        records = records.where(records.numbers("completions") < 2)
    for record in records:
        choose(record, completions)


def _refuse_labels(records: Sequence[Record]) -> None:
    """Half of a pair is no pair."""
    if isinstance(records, StoredRecords):
        records = records.where((records.numbers("labels") >= 0) & (records.numbers("completions") < 2))
    unpaired = [record for record in records if record.is_unpaired]
    if unpaired:
        good = sum(record.labels == (True,) for record in unpaired)
        raise TrimtabError(
            f"{unpaired[0].origin}: a completion with a label (KTO; {good} desirable, {len(unpaired) - good} "
            "undesirable) is no pair: of preference training only loss kto can use it. Make pairs of what shares "
            "a prompt with data.pair_labels=true, or give pairs."
        )


def choose(record: Record, completions: CompletionsOf) -> Record:
    """The record with the completions that a method trains on."""
    if completions == "none":
        return replace(record, completions=(), scores=None, labels=None)
    if not record.completions:
        raise TrimtabError(
            f"{record.origin}: a prompt without a completion; only GRPO and PPO can train on "
            "that. Remove such rows, or keep them in a file of their own."
        )
    if completions == "labelled":
        return record if record.labels is not None else replace(record, labels=_labels_of(record))
    if completions in ("pair", "all") and len(record.completions) < 2:
        raise TrimtabError(
            f"{record.origin}: one completion only; preference training needs 'chosen' and 'rejected'. Remove such "
            "rows, or train on them by SFT."
        )
    if completions == "all":
        return record
    picked = (0,) if completions == "first" else (0, len(record.completions) - 1)
    return replace(
        record,
        completions=tuple(record.completions[i] for i in picked),
        scores=tuple(record.scores[i] for i in picked) if record.scores else None,
        labels=tuple(record.labels[i] for i in picked) if record.labels else None,
    )


def _labels_of(record: Record) -> tuple[bool, ...]:
    """Of a pair or a ranking: the best is desirable, the others are not."""
    if len(record.completions) < 2:
        raise TrimtabError(
            f"{record.origin}: one completion without a label; KTO needs 'label', or 'chosen' and 'rejected'."
        )
    return (True, *(False for _ in record.completions[1:]))


def require_groups(groups: Sequence[CompletionGroup], counts: SplitCounts, split: str, source: str) -> None:
    """TrimtabError that says where a split's rows went, where no group is left to train on."""
    if not groups:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in counts.dropped.items()) or "there were none"
        raise TrimtabError(
            f"data {source}: nothing is left of the {counts.rows} {split} rows ({reasons}). "
            f"Raise max_length, or mend the rows: {'; '.join(counts.dropped_rows[:3]) or 'none'}."
        )
