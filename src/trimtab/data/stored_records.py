"""The records of a large source, kept as its rows on the disk: one is made of its row when it is asked for.

ROWS/rows.arrow     each row as JSON, where it stands in the source, and what splitting asks of it
     source.json    what the source is called in messages, and the rows that were left out
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from trimtab.data.arrow_files import ArrowFile, kept_folder, key_of, write_batches
from trimtab.data.files import Line, Rows, local_rows
from trimtab.data.hashing import hash_source
from trimtab.data.message import Answer, Prompt
from trimtab.data.pool import in_order, processes
from trimtab.data.records import LazyRecords, ReadingSettings, Record, read_records, records_of, require_records
from trimtab.errors import TrimtabError
from trimtab.files import read_json, write_json
from trimtab.progress import Progress

LARGE = 10_000
"""Rows from which on a source is kept on the disk: fewer are in memory sooner."""
BATCH = 1024
"""Rows that a process is given at once."""
FORMAT = 1
"""Raised where what is written changes."""
REMEDY = "Remove the folder that it is in; it is made anew."


def digest_of(prompt: Prompt, completions: Sequence[str] = ()) -> bytes:
    """The same for equal prompts and completions, and for no others."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (prompt, *completions):
        value: object = (part.content, part.extra) if isinstance(part, Answer) else part
        kind, text = ("text", value) if isinstance(value, str) else ("more", repr(value))
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(f"{kind} {len(encoded)} ".encode())  # where it ends, so that no other parts are the same
        digest.update(encoded)
    return digest.digest()


def place_of_prompt(prompt: Prompt) -> float:
    """A place in [0, 1) that depends on the prompt alone, so that equal prompts share a split."""
    digest = hashlib.blake2b(repr(prompt).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def places_of_prompts(records: Sequence[Record]) -> Any:
    """Of each record, as an array."""
    if isinstance(records, StoredRecords):
        return records.numbers("place_of_prompt")
    return np.array([place_of_prompt(record.prompt) for record in records])


def prompts_of(records: Sequence[Record]) -> list[bytes]:
    """The digest of each record's prompt."""
    return records.prompts if isinstance(records, StoredRecords) else [digest_of(r.prompt) for r in records]


def chosen_by(mask: Any, records: Sequence[Record]) -> Sequence[Record]:
    """The records for which an array of truth values says so."""
    if isinstance(records, StoredRecords):
        return records.where(mask)
    return [record for record, chosen in zip(records, mask, strict=True) if chosen]


def any_labelled(records: Sequence[Record]) -> bool:
    """Whether any record has labels."""
    if isinstance(records, StoredRecords):
        return bool((records.numbers("labels") >= 0).any())
    return any(record.labels is not None for record in records)


@dataclass(frozen=True)
class RowFolder:
    """A folder of rows, and how they are read."""

    folder: Path
    settings: ReadingSettings
    name: str
    rows: ArrowFile

    def record(self, row: int) -> Record:
        """One row's record."""
        batch, place = self.rows.find(row)
        return self._record(self.rows.batches[batch], place)

    def records(self, rows: Any) -> Iterator[Record]:
        """Those of several rows, one after the other."""
        read, current, batch = self.rows.read(), -1, None
        for row in map(int, rows):
            number, place = self.rows.find(row)
            if number != current:
                current, batch = number, read(number)
            yield self._record(batch, place)

    def _record(self, batch: Any, place: int) -> Record:
        where, line = (batch.column(name)[place].as_py() for name in ("place", "row"))
        return next(records_of(self.name, [(where, Line(line))], self.settings, []))


class StoredRecords(LazyRecords):
    """Some of a folder's records, in order. Parts of it are of the same kind, and hold no rows either."""

    def __init__(self, source: RowFolder, rows: Any) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> StoredRecords: ...
    def __getitem__(self, place: int | slice) -> Record | StoredRecords:
        if isinstance(place, slice):
            return StoredRecords(self.source, self.rows[place])
        return self.source.record(int(self.rows[place]))

    def __iter__(self) -> Iterator[Record]:
        return self.source.records(self.rows)

    def where(self, mask: Any) -> StoredRecords:
        """Those for which an array of as many truth values says so."""
        return StoredRecords(self.source, self.rows[np.asarray(mask, dtype=bool)])

    def numbers(self, name: str) -> Any:
        """What splitting and methods ask of every row, as an array: place_of_prompt, completions (how many), labels
        (-1: none, 0: undesirable, 1: desirable, of the first completion)."""
        return self.source.rows.numbers(name)[self.rows]

    @cached_property
    def prompts(self) -> list[bytes]:
        """The digest of each prompt."""
        every = [digest for batch in self.source.rows.batches for digest in batch.column("prompt").to_pylist()]
        return [every[row] for row in self.rows]

    @property
    def key(self) -> list[str]:
        """What says which records these are."""
        digest = hashlib.blake2b(np.asarray(self.rows, dtype=np.int64).tobytes(), digest_size=16)
        return [self.source.folder.name, digest.hexdigest()]


def read_or_store(
    source: str, split: str, config: str | None, settings: ReadingSettings, bad: list[str], cache: Path | None
) -> Sequence[Record]:
    """The records of `read_records`; those of a large local source stay on the disk, in `cache`, where the next
    run finds them by the content of the source's files."""
    found = None if cache is None else local_rows(source, split, config)
    if cache is None or found is None:
        return read_records(source, split, config, settings, bad)
    try:
        content = hash_source(source, nested=True)
    except TrimtabError:  # reading says it better
        return read_records(source, split, config, settings, bad)
    reading = settings.model_dump(mode="json", include=set(ReadingSettings.model_fields))
    folder = cache / f"rows-{key_of(FORMAT, found[0], content, split, config, reading)}"
    if not folder.is_dir() and not _is_large(found[1]):
        return read_records(source, split, config, settings, bad)
    try:
        kept_folder(folder, partial(_write, source, split, config, settings))
    except _NoJsonError:
        return read_records(source, split, config, settings, bad)
    about = read_json(folder / "source.json", REMEDY)
    bad += about["left_out"]
    rows = ArrowFile(folder / "rows.arrow")
    require_records(range(len(rows)), about["left_out"], source)  # type: ignore[arg-type]
    reading_only = ReadingSettings.model_validate(reading)
    return StoredRecords(RowFolder(folder, reading_only, about["name"], rows), np.arange(len(rows)))


def _is_large(rows: Rows) -> bool:
    """Whether a source has LARGE rows. What is wrong with the rows before, reading them says."""
    try:
        return sum(1 for _ in zip(range(LARGE), rows, strict=False)) == LARGE
    except TrimtabError:
        return False


# ---- writing


class _NoJsonError(Exception):
    """A row that JSON cannot hold: dates, bytes and decimals of Parquet's."""


def _write(source: str, split: str, config: str | None, settings: ReadingSettings, folder: Path) -> None:
    found = local_rows(source, split, config)
    assert found is not None
    name, rows = found
    left_out: list[str] = []

    def batches() -> Iterator[Any]:
        for batch, bad in in_order(partial(_batch, name, settings), in_batches(rows, BATCH), processes()):
            left_out.extend(bad)
            progress.advance(len(batch))
            yield batch

    with Progress(f"reading {name}", None) as progress:
        write_batches(folder / "rows.arrow", _schema(), batches())
    write_json(folder / "source.json", {"name": name, "left_out": left_out})


def in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of so many; what they raise comes behind a list of those before."""
    batch: list[Any] = []
    failure = None
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "row": pa.binary(),
            "place": pa.string(),
            "prompt": pa.binary(16),
            "place_of_prompt": pa.float64(),
            "completions": pa.int32(),
            "labels": pa.int8(),
        }
    )


def _batch(name: str, settings: ReadingSettings, rows: Sequence[tuple[int | str, object]]) -> tuple[Any, list[str]]:
    """Some rows as an Arrow batch, and what is wrong with those that are left out."""
    import pyarrow as pa

    bad: list[str] = []
    kept: list[tuple[Any, ...]] = []
    for place, row in rows:
        for record in records_of(name, [(place, row)], settings, bad):
            label = -1 if record.labels is None else int(record.labels[0])
            digest, share = digest_of(record.prompt), place_of_prompt(record.prompt)
            kept.append((_as_json(row), str(place), digest, share, len(record.completions), label))
    columns = list(zip(*kept, strict=True)) or [()] * len(_schema())
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _schema(), strict=True)]
    return pa.record_batch(arrays, schema=_schema()), bad


def _as_json(row: object) -> bytes:
    """A row as a line of JSON from which the same row is read."""
    if isinstance(row, Line):
        return bytes(row)
    try:
        line = Line(json.dumps(row).encode())
        same = line.row() == row
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise _NoJsonError
    return line
