"""Where training, validation and test rows come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, model_validator

from trimtab.data.labels import pair_by_label
from trimtab.data.records import ReadingSettings, Record
from trimtab.data.rows import TruncationSettings
from trimtab.data.settings import ROWS
from trimtab.data.split_values import places_by, values_told
from trimtab.data.stored_records import any_labelled, chosen_by, places_of_prompts, prompts_of, read_or_store
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.notices import warn


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
    split_by: str | None = None
    """A column, with validation_share or test_share: rows with the same value of it stay together, shares are of
    rows, and a list is the set of its entries."""
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
        if self.split_by is not None and not (self.validation_share or self.test_share):
            raise ValueError("split_by needs validation_share or test_share: it says of what these are shares")
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
    """The rows of each split, and what became of the rows that are in none."""

    train: Sequence[Record]
    validation: Sequence[Record] = field(default_factory=list)
    test: Sequence[Record] = field(default_factory=list)
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
    values: dict[str, int] = field(default_factory=dict)
    """With data.split_by: how many of the column's values each split has."""

    def notes(self) -> JsonObject:
        """What became of rows before any split was encoded; the first twenty that could not be read."""
        return {
            "shared_prompts": self.shared_prompts,
            "unpaired_labels": self.unpaired,
            "unreadable": len(self.unreadable),
            "unreadable_rows": self.unreadable[:20],
            **({"values": self.values} if self.values else {}),
        }


def split_records(settings: DataSettings, cache: Path | None = None) -> Splits:
    """Reads the sources and splits them. cache: a folder in which large sources are kept: their rows need not be in
    memory then, and are ready when they are wanted again."""
    unreadable: list[str] = []
    unpaired = 0

    labelled = False

    def read(source: str, split: str) -> Sequence[Record]:
        nonlocal unpaired, labelled
        records = read_or_store(source, split, settings.config, settings, unreadable, cache)
        labelled = labelled or any_labelled(records)
        if settings.pair_labels:
            records, unmatched = pair_by_label(records, source)
            unpaired += unmatched
        return records

    _check_source_settings(settings)
    train = read(settings.train, settings.train_split)
    held: dict[str, Sequence[Record]] = {}
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
        top = validation_share + test_share
        places = places_of_prompts(train) if settings.split_by is None else places_by(train, settings.split_by)
        if validation_share:
            held["validation"] = chosen_by(places < validation_share, train)
        if test_share:
            held["test"] = chosen_by((places >= validation_share) & (places < top), train)
        for name in ("validation", "test"):
            if getattr(settings, f"{name}_share") and not held[name]:
                raise TrimtabError(
                    f"{name}_share={getattr(settings, f'{name}_share')} of the {len(train)} rows of "
                    f"{settings.train} is no row at all; raise it, or give {name}_rows."
                )
        train = chosen_by(places >= top, train)
    values = {}
    if settings.split_by is not None:
        values = values_told(settings.split_by, {"train": train, **held})
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
    shared = count_shared(train, *held.values())
    return Splits(
        train, held.get("validation", []), held.get("test", []), shared, unreadable, unpaired, values=values
    )


def count_shared(train: Sequence[Record], *held: Sequence[Record]) -> int:
    """How many training rows have a prompt that is also among the rows held out."""
    kept_out = {prompt for rows in held for prompt in prompts_of(rows)}
    return sum(prompt in kept_out for prompt in prompts_of(train)) if kept_out else 0


def _first(records: Sequence[Record], count: int | None, setting: str, source: str) -> Sequence[Record]:
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
