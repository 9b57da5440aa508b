"""Where training, validation and test rows come from, and what became of each row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field, model_validator

from trimtab.data.beside import Rendering, ignored_of
from trimtab.data.chat import Dropped, TruncationSettings
from trimtab.data.groups import CompletionGroup
from trimtab.data.labels import pair_by_label
from trimtab.data.records import ReadingSettings, Record, read_records
from trimtab.data.settings import ROWS
from trimtab.errors import TrimtabError
from trimtab.notices import warn

SplitName = Literal["train", "validation", "test"]


class DataSettings(TruncationSettings, ReadingSettings):
    """Which rows go where. Validation and test each come from a source of their own, from the first
    rows of `train` (validation first, then test), or as shares of it."""

    train: str
    """A .jsonl, .json or .parquet file, a folder, or the name of a hub data set."""
    train_split: str = "train"
    """The hub data set's split to train on."""
    config: str | None = None
    """The hub data set's configuration."""
    train_rows: int | None = Field(None, gt=0, le=ROWS)
    """Use at most so many training rows, the first."""
    validation: str | None = None
    """A source of its own for the rows that choose which weights are kept, named as train is."""
    validation_split: str = "test"
    """The hub data set's split to validate on, where validation names one."""
    validation_rows: int | None = Field(None, gt=0, le=ROWS)
    """With a source of its own: its first n rows. Without: the first n rows of train."""
    validation_share: float | None = Field(None, gt=0, lt=1)
    """Share of train's distinct prompts; rows with the same prompt stay together."""
    test: str | None = None
    """A source of its own for the rows that methods are compared on, named as train is."""
    test_split: str = "test"
    """The hub data set's split to compare on, where test names one."""
    test_rows: int | None = Field(None, gt=0, le=ROWS)
    """With a source of its own: its first n rows. Without: the n rows of train behind validation's."""
    test_share: float | None = Field(None, gt=0, lt=1)
    """Share of train's distinct prompts, apart from validation's."""
    limit: int | None = Field(None, gt=0, le=ROWS)
    """A quick try: at most so many rows of each split, the first."""
    pair_labels: bool = False
    """KTO's labels: whether a desirable and an undesirable completion of the same prompt are made a pair."""

    @model_validator(mode="after")
    def _check_splits(self) -> DataSettings:
        for name in ("validation", "test"):
            share = getattr(self, f"{name}_share")
            if share is not None and (getattr(self, name) or getattr(self, f"{name}_rows")):
                raise ValueError(f"{name}_share can't go with {name} or {name}_rows: choose one way to split")
        if (self.validation_share or 0) + (self.test_share or 0) >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on")
        for name in ("validation", "test"):
            split = getattr(self, f"{name}_split")
            if split != type(self).model_fields[f"{name}_split"].default and not getattr(self, name):
                raise ValueError(
                    f"{name}_split={split!r} is a split of data.{name}, which is not given: name that source too, "
                    f"or hold rows of train out by {name}_rows or {name}_share"
                )
        return self


@dataclass
class Splits:
    train: list[Record]
    validation: list[Record] = field(default_factory=list)
    test: list[Record] = field(default_factory=list)
    shared_prompts: int = 0
    """Training rows whose prompt is also in validation or test: each makes the comparison too kind."""
    unreadable: list[str] = field(default_factory=list)
    """Rows that were left out, "file:row: reason": those that could not be read where data.bad_rows is drop, and
    those of what is no text."""
    unpaired: int = 0
    """Labelled completions that pair_labels found no partner for."""
    tested_on_validation: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    """Test rows that no model is asked, by reason."""

    def notes(self) -> dict[str, Any]:
        """What became of rows before any split was encoded; the first twenty that could not be read."""
        return {
            "shared_prompts": self.shared_prompts,
            "unpaired_labels": self.unpaired,
            "unreadable": len(self.unreadable),
            "unreadable_rows": self.unreadable[:20],
        }


def split_records(settings: DataSettings) -> Splits:
    """Reads the sources and splits them."""
    unreadable: list[str] = []
    unpaired = 0

    labelled = False

    def read(source: str, split: str) -> list[Record]:
        nonlocal unpaired, labelled
        records = read_records(source, split, settings.config, settings, unreadable)
        labelled = labelled or any(record.labels is not None for record in records)
        if settings.pair_labels:
            records, left = pair_by_label(records, source)
            unpaired += left
        return records

    _check_source_settings(settings)
    train = read(settings.train, settings.train_split)
    held: dict[str, list[Record]] = {}
    for name in ("validation", "test"):
        source, rows = getattr(settings, name), getattr(settings, f"{name}_rows")
        if source is not None:
            held[name] = _first(read(source, getattr(settings, f"{name}_split")), rows, f"data.{name}_rows", source)
        elif rows is not None:
            if rows >= len(train):
                raise TrimtabError(
                    f"{name}_rows={rows} takes all {len(train)} rows of {settings.train}; leave some to train on."
                )
            held[name], train = train[:rows], train[rows:]
    validation_share, test_share = settings.validation_share or 0.0, settings.test_share or 0.0
    if validation_share or test_share:
        places = [_place(record) for record in train]
        if validation_share:
            held["validation"] = [r for r, p in zip(train, places, strict=True) if p < validation_share]
        if test_share:
            top = validation_share + test_share
            held["test"] = [r for r, p in zip(train, places, strict=True) if validation_share <= p < top]
        for name in ("validation", "test"):
            if getattr(settings, f"{name}_share") and not held[name]:
                raise TrimtabError(
                    f"{name}_share={getattr(settings, f'{name}_share')} of the {len(train)} rows of "
                    f"{settings.train} is no row at all; raise it, or give {name}_rows."
                )
        train = [r for r, p in zip(train, places, strict=True) if p >= validation_share + test_share]
    train = _first(train, settings.train_rows, "data.train_rows", settings.train)
    if settings.pair_labels and not labelled:
        raise TrimtabError(
            f"data {settings.train}: pair_labels=true, but no row has a label. Leave the setting out."
        )
    if settings.limit is not None:
        train, held = train[: settings.limit], {name: rows[: settings.limit] for name, rows in held.items()}
        warn(f"a quick try: at most the first {settings.limit} rows of each split were used (limit)")
    if not train:
        raise TrimtabError(f"data {settings.train}: the splits leave no row to train on.")
    kept_out = {r.prompt for rows in held.values() for r in rows}
    shared = sum(r.prompt in kept_out for r in train)
    return Splits(train, held.get("validation", []), held.get("test", []), shared, unreadable, unpaired)


def _first(records: list[Record], count: int | None, setting: str, source: str) -> list[Record]:
    """The first so many; a warning where there are fewer."""
    if count is not None and count > len(records):
        warn(f"{setting}={count}: {source} has only {len(records)} rows for it, which are all taken")
    return records[:count]


def _check_source_settings(settings: DataSettings) -> None:
    """TrimtabError for a split or a configuration of a plain file, which has neither."""
    fields, files = type(settings).model_fields, []
    for name in ("train", "validation", "test"):
        source, split = getattr(settings, name), getattr(settings, f"{name}_split")
        if source is None:
            continue
        files.append(os.path.isfile(os.path.expanduser(source)))  # False for a name too long, too
        if files[-1] and split != fields[f"{name}_split"].default:
            raise TrimtabError(
                f"data {source}: a file has no splits, so {name}_split={split!r} means nothing. Leave it out, or "
                "name the file that holds those rows."
            )
    if settings.config is not None and all(files):
        raise TrimtabError(
            f"data {settings.train}: a file has no configurations, so config={settings.config!r} means nothing. "
            "Leave it out."
        )


def _place(record: Record) -> float:
    """A place in [0, 1) that depends on the prompt alone, so that equal prompts share a split."""
    digest = hashlib.blake2b(repr(record.prompt).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


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
    """data/chat.py's ChatFormat, or a reward model's format. remarks: of the record that was encoded last."""

    remarks: set[str]

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped: ...


Expansion = Callable[[Record], list[Record] | Dropped]
"""One row made several, or another; or why it can't be: data/conditions.py."""
CompletionsOf = Literal["first", "pair", "all", "labelled", "none"]
"""The best completion (SFT), best and worst (DPO), all that are ranked, all with a label each (KTO), or none
but the prompt (GRPO)."""


def encode_records(
    records: Sequence[Record], chat: Encoder, completions: CompletionsOf, expand: Expansion | None = None
) -> tuple[list[CompletionGroup], SplitCounts]:
    """Records -> completion groups. Of labelled completions SFT takes the desirable ones; TrimtabError where pairs
    are wanted.

    expand: what is made of a record with the completions that the method trains on. A row is used whole, or not.
    """
    if completions in ("pair", "all"):
        _refuse_labels(records)
    groups: list[CompletionGroup] = []
    counts = SplitCounts(rows=len(records))
    seen: set[Any] = set()
    for index, record in enumerate(records):
        row = choose(record, completions)
        if completions == "first" and row.labels == (False,):
            _drop(counts, Dropped(UNDESIRABLE, row.origin))
            continue
        identity = (row.prompt, row.completions)
        counts.duplicates += identity in seen
        seen.add(identity)
        if row.scores is not None and len(row.scores) > 1 and row.scores[0] == row.scores[-1]:
            counts.equal_scores += 1
        for name in ignored_of(row, chat):
            counts.ignored[name] = counts.ignored.get(name, 0) + 1
        made, remarks = _encoded(row, index, chat, expand)
        if isinstance(made, Dropped):
            _drop(counts, made)
            continue
        for remark in remarks:
            counts.remarks[remark] = counts.remarks.get(remark, 0) + 1
        counts.truncated += sum(made[0].truncated)  # an expanded row says the same completions again
        counts.used += 1
        groups += made
    counts.dropped = dict(sorted(counts.dropped.items()))
    counts.ignored = dict(sorted(counts.ignored.items()))
    counts.remarks = dict(sorted(counts.remarks.items()))
    return groups, counts


def _encoded(
    row: Record, index: int, chat: Encoder, expand: Expansion | None
) -> tuple[list[CompletionGroup] | Dropped, set[str]]:
    """All groups of a row, or why it can't be used; and what is to be remarked on."""
    rows = [row] if expand is None else expand(row)
    remarks: set[str] = set()
    if isinstance(rows, Dropped):
        return rows, remarks
    groups: list[CompletionGroup] = []
    for one in rows:
        encoded = chat.encode(one, index)
        remarks |= chat.remarks
        if isinstance(encoded, Dropped):
            return encoded, remarks
        groups.append(encoded)
    return groups, remarks


UNDESIRABLE = "labelled undesirable: nothing to imitate"


def _drop(counts: SplitCounts, row: Dropped) -> None:
    counts.dropped[row.reason] = counts.dropped.get(row.reason, 0) + 1
    if len(counts.dropped_rows) < 20:
        counts.dropped_rows.append(f"{row.origin}: {row.reason}")


def check_completions(records: Sequence[Record], completions: CompletionsOf) -> None:
    """TrimtabError where a record lacks the completions that a method trains on."""
    if completions in ("pair", "all"):
        _refuse_labels(records)
    for record in records:
        choose(record, completions)


def _refuse_labels(records: Sequence[Record]) -> None:
    """Half of a pair is no pair."""
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
    """Training on nothing is an error that says where the rows went."""
    if not groups:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in counts.dropped.items()) or "there were none"
        raise TrimtabError(
            f"data {source}: nothing is left of the {counts.rows} {split} rows ({reasons}). "
            f"Raise max_length, or mend the rows: {'; '.join(counts.dropped_rows[:3]) or 'none'}."
        )
