"""A source of rows -> its rows with their numbers: a file, a folder, or a hub data set.

A row that cannot be read stands in its place as a BadRowError, or is a Line that raises one, so that the rest can
be read; what spoils a whole file is raised.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from trimtab.data.arrow_json import Decoder, decoder_of
from trimtab.data.fields import BadRowError
from trimtab.data.folders import IGNORED, NoSuchSplitError, files_of
from trimtab.data.vote_file import is_vote_file
from trimtab.data.vote_rows import rows_of_votes
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue

if TYPE_CHECKING:
    from datasets import Dataset

Rows = Iterator[tuple[int | str, object]]
"""Where each row is, its number or "file:number" where a folder has several, and the row: nobody has checked yet
that it is an object with names. Of JSONL it is the Line, which nobody has read yet."""
PART = 1024
"""Rows of Parquet that are in memory at once."""
GIVE = "Give a .jsonl, .json or .parquet file, votes (.sqlite), a folder of files, or the name of a hub data set."


def rows_of(source: str, split: str = "train", config: str | None = None) -> tuple[str, Rows]:
    """The name of a source in messages ("pairs.jsonl"), and its rows with their places, counted from 1."""
    return local_rows(source, split, config) or (f"{source}/{split}", _rows_of_hub(source, split, config))


def local_rows(source: str, split: str = "train", config: str | None = None) -> tuple[str, Rows] | None:
    """The same of a file or a folder, of which nothing is read yet but the beginning; None for a hub name."""
    path = Path(os.path.expanduser(source))
    try:
        if path.is_dir():
            return f"{path.name}/{split}", _rows_of_folder(path, split, config)
        if path.is_file():
            return path.name, rows_of_votes(path, config) if is_vote_file(path) else _rows_of_file(path)
        local = path.exists() or path.is_symlink()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise TrimtabError(f"data {source}: cannot be read ({error.strerror}). {GIVE}") from None
    if local or is_vote_file(path) or _kind(path.name) in _READERS or source.startswith((".", "/", "~")):
        raise TrimtabError(f"data {source}: no such file. {GIVE}")
    return None


def _kind(name: str) -> str:
    """.jsonl of pairs.jsonl and of pairs.jsonl.gz."""
    bare = name.lower()
    for suffix in _COMPRESSED:
        bare = bare.removesuffix(suffix)
    return Path(bare).suffix


def _rows_of_file(path: Path) -> Rows:
    reader = _READERS.get(_kind(path.name))
    compressed = path.name.lower().endswith(_COMPRESSED)
    if reader is None or (compressed and reader is _read_parquet):
        readable = f"{', '.join(_READERS)}, all but .parquet also with {' or '.join(_COMPRESSED)} behind"
        raise TrimtabError(f"data {path}: unknown kind of file. Known: {readable}.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise TrimtabError(f"data {path}: cannot be read ({error.strerror}).") from None
    if not start:
        raise TrimtabError(f"data {path}: the file is empty.")
    for magic, kind, advice in _NOT_TEXT if reader is not _read_parquet and not compressed else ():
        if start.startswith(magic):
            raise TrimtabError(f"data {path}: this is {kind}. {advice}")
    return _checked_rows(path, reader)


def _checked_rows(path: Path, reader: Callable[[Path], Rows]) -> Rows:
    """The rows of a file; a damaged archive is a TrimtabError of one line."""
    place: int | str = 0
    try:
        for place, row in reader(path):
            yield place, row
    except (OSError, EOFError, zlib.error) as error:
        raise TrimtabError(f"data {path}: cannot be read after row {place} ({_reason(error)}).") from None


_COMPRESSED = (".gz", ".zst")


def _open(path: Path) -> BinaryIO:
    """A file's bytes, decompressed."""
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(str(path), "zstd"))
    return path.open("rb")


_NOT_TEXT = (
    (b"\x1f\x8b", "a gzip archive", "Put .gz behind its name, or unpack it."),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Put .zst behind its name, or unpack it."),
    (b"PK\x03\x04", "a zip archive", "Unpack it first."),
    (b"PAR1", "a Parquet file", "Call it .parquet."),
    (b"\xff\xfe\0\0", "UTF-32 text", "Save it as UTF-8."),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8."),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8."),
)
"""What files begin with that are not the text that their names promise."""


def _loads(text: str) -> JsonValue:
    """JSON in which no object has a key twice: one of the two values would be lost without a word."""
    return json.loads(text, object_pairs_hook=_object_of_distinct_keys)


def _object_of_distinct_keys(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return value


class Line(bytes):
    """A line of JSONL as it stands in the file: whoever wants its row reads it, in a process of its own or not."""

    __slots__ = ()

    def row(self) -> JsonValue:
        """What the line holds; BadRowError where it is no JSON."""
        try:
            return _loads(self.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadRowError(f"not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
        except json.JSONDecodeError as error:  # its line number would be that within the line
            wrong = f"{error.msg}, character {error.pos + 1}"
            raise BadRowError(f"not valid JSON ({wrong}). Mend or remove the line.") from None
        except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits too
            raise BadRowError(f"not valid JSON ({error}). Mend or remove the line.") from None


def _read_jsonl(path: Path) -> Rows:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, Line(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


def _read_json(path: Path) -> Rows:
    try:
        with _open(path) as file:
            rows = _loads(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRowError(f"{path.name}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"{path.name}: not valid JSON ({error}). One object a line is .jsonl.") from None
    if not isinstance(rows, list):
        raise BadRowError(f"{path.name}: expected a list of rows, found {type(rows).__name__}.")
    yield from enumerate(rows, start=1)


def _read_csv(path: Path) -> Rows:
    """Every value is the text that stands there, an empty one null; of `label` true and false."""
    csv.field_size_limit(sys.maxsize)
    with _open(path) as file:
        lines = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        number, header = 0, None
        try:
            header = next(lines, [])
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise BadRowError(f"{path.name}: column {twice!r} twice in the first line.")
            for number, values in enumerate((line for line in lines if line), start=1):
                if len(values) != len(header):
                    yield number, BadRowError(f"{len(values)} values for {len(header)} columns. Mend or remove it.")
                    continue
                yield number, dict(zip(header, map(_csv_value, header, values), strict=True))
        except UnicodeDecodeError as error:
            raise BadRowError(f"{path.name}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
        except csv.Error as error:
            raise BadRowError(f"{path.name}: not readable CSV after row {number} ({error}).") from None


def _csv_value(name: str, value: str) -> str | bool | None:
    if name == "label" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value or None


def _read_parquet(path: Path) -> Rows:
    numbers = count(1)
    for rows, decoders in _parts_of_parquet(path):
        for row in rows:
            number = next(numbers)
            try:
                yield number, row | {name: decode(row[name]) for name, decode in decoders.items()}
            except (ValueError, RecursionError) as error:
                yield number, BadRowError(f"a column of JSON holds what is not valid JSON ({error}).")


def _parts_of_parquet(path: Path) -> Iterator[tuple[list[JsonObject], dict[str, Decoder]]]:
    """The rows as they come from the file, some at a time, and what makes values of columns of JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            fields = file.schema_arrow
            decoders = {field.name: decode for field in fields if (decode := decoder_of(field.type, field))}
            for part in file.iter_batches(PART):
                yield part.to_pylist(maps_as_pydicts="strict"), decoders
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        KeyError,
    ) as error:  # text not UTF-8, odd dates, a map's key twice
        raise BadRowError(f"{path.name}: not a readable Parquet file ({_reason(error)}). Write it anew.") from None


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _rows_of_folder(path: Path, split: str, config: str | None) -> Rows:
    """A folder that `save_to_disk` wrote, or one of files, laid out as on the hub."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _numbered(_load_saved(path, split), path.name)
    names = sorted(file.relative_to(path).as_posix() for file in files_within(path) if file.is_file())
    readable = [name for name in names if _kind(name) in _READERS and Path(name).name not in IGNORED]
    if not readable and any(name.endswith(".arrow") for name in names):
        return _numbered(_load(str(path), split, config), path.name)
    if not readable:
        raise TrimtabError(f"data {path}: a folder without files that can be read. {GIVE}")
    card = path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    try:
        split_files = files_of(readable, text, split, config)
    except NoSuchSplitError as error:
        raise TrimtabError(f"data {path}: {error}") from None
    return _rows_of_files([path / name for name in split_files], split_files)


def files_within(folder: Path) -> list[Path]:
    """All files below a folder. TrimtabError for what cannot be read: a part left out would be rows left out."""

    def refuse(error: OSError) -> None:
        raise TrimtabError(f"data {error.filename}: cannot be read ({error.strerror}).")

    paths = [Path(where) / name for where, _, names in os.walk(folder, onerror=refuse) for name in names]
    for file in paths:
        if file.is_symlink() and not file.exists() and _kind(file.name) in _READERS:
            raise TrimtabError(f"data {file}: a link to {file.readlink()}, where nothing is. Mend or remove it.")
    return paths


def _rows_of_files(paths: Sequence[Path], names: Sequence[str]) -> Rows:
    """One file after the other. With several a row's place is "file:number"."""
    for path, name in zip(paths, names, strict=True):
        try:
            rows = _rows_of_file(path)
        except TrimtabError:
            if len(paths) > 1 and path.stat().st_size == 0:  # an empty shard
                continue
            raise
        for number, row in rows:
            yield number if len(paths) == 1 else f"{name}:{number}", row


def _load_saved(path: Path, split: str) -> Dataset:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds; each means that there is no data
        raise TrimtabError(f"data {path}: not a readable data set of save_to_disk ({_reason(error)}).") from None
    if not isinstance(data, dict):
        return data
    if split not in data:
        raise TrimtabError(f"data {path}: it has no split {split!r}. It has: {', '.join(data)}.")
    return data[split]


def _rows_of_hub(name: str, split: str, config: str | None) -> Rows:
    """The files of the hub's data set by our own readers; by `datasets` where they are not to be had (what it read
    before, with no network) or of another kind."""
    from huggingface_hub import HfApi, hf_hub_download

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, repo_type="dataset"))

    try:
        names = HfApi().list_repo_files(name, repo_type="dataset")
        readable = sorted(file for file in names if _kind(file) in _READERS and Path(file).name not in IGNORED)
        text = fetch("README.md").read_text(encoding="utf-8", errors="replace") if "README.md" in names else ""
        split_files = files_of(readable, text, split, config) if readable else []
        paths = [fetch(file) for file in split_files]
    except NoSuchSplitError as error:
        raise TrimtabError(f"data {name}: {error}") from None
    except Exception:  # the libraries raise many kinds; `datasets` says it in the end
        split_files, paths = [], []
    return _rows_of_files(paths, split_files) if paths else _numbered(_load(name, split, config), name)


def _load(name: str, split: str, config: str | None) -> Dataset:
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as raised:  # the library raises many kinds; each means that there is no data
        error: BaseException = raised
        while error.__cause__ is not None:  # "An error occurred while generating the dataset" says nothing
            error = error.__cause__
        of_config = f" of config {config}" if config else ""
        what = "it can't be read" if Path(name).is_dir() else "no such file, and the hub could not give it"
        raise TrimtabError(
            f"data {name} (split {split}{of_config}): {what} ({type(error).__name__}: {_reason(error)}). "
            "Check the name and the split, or give a .jsonl, .json or .parquet file."
        ) from None


def _numbered(data: Iterable[object], name: str) -> Rows:
    number = 0
    try:
        for number, row in enumerate(data, start=1):
            yield number, row
    except (OSError, ValueError, TypeError) as error:  # a damaged file behind the data set; Arrow's are ValueErrors
        raise TrimtabError(f"data {name}: cannot be read after row {number} ({_reason(error)}).") from None


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]
