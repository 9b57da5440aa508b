"""A source of rows -> its rows with their numbers: a file, a folder, or a hub data set.

A line of JSONL that cannot be read stands in its place as a BadRowError, so that the rest can be read;
what spoils a whole file is raised.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from trimtab.data.fields import BadRowError
from trimtab.errors import TrimtabError

Rows = Iterator[tuple[int, Any]]
GIVE = "Give a .jsonl, .json or .parquet file, a folder of such files, or the name of a hub data set."


def rows_of(source: str, split: str = "train", config: str | None = None) -> tuple[str, Rows]:
    """What rows are called in messages ("pairs.jsonl"), and the rows, counted from 1."""
    path = Path(os.path.expanduser(source))
    try:
        if path.is_dir():
            return f"{path.name}/{split}", _rows_of_folder(path, split, config)
        if path.is_file():
            return path.name, _rows_of_file(path)
        local = path.exists() or path.is_symlink()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise TrimtabError(f"data {source}: cannot be read ({error.strerror}). {GIVE}") from None
    if local or path.suffix in _READERS or source.startswith((".", "/", "~")):
        raise TrimtabError(f"data {source}: no such file. {GIVE}")
    return f"{source}/{split}", _rows_of_hub(source, split, config)


def _rows_of_file(path: Path) -> Rows:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TrimtabError(f"data {path}: unknown kind of file. Known: {', '.join(_READERS)}.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise TrimtabError(f"data {path}: cannot be read ({error.strerror}).") from None
    if not start:
        raise TrimtabError(f"data {path}: the file is empty.")
    for magic, kind, advice in _OTHERWISE if reader is not _read_parquet else ():
        if start.startswith(magic):
            raise TrimtabError(f"data {path}: this is {kind}. {advice}")
    return reader(path)


_OTHERWISE = (
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"PK\x03\x04", "a zip archive", "Unpack it first."),
    (b"PAR1", "a Parquet file", "Call it .parquet."),
    (b"\xff\xfe\0\0", "UTF-32 text", "Save it as UTF-8."),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8."),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8."),
)
"""What files begin with that are not the text that their names promise."""


def _loads(text: str) -> Any:
    """JSON in which no object has a key twice: one of the two values would be lost without a word."""
    return json.loads(text, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return found


def _read_jsonl(path: Path) -> Rows:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, _loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield number, BadRowError(f"not UTF-8 text ({error.reason}). Save it as UTF-8.")
            except json.JSONDecodeError as error:  # its line number would be that within the line
                yield (
                    number,
                    BadRowError(
                        f"not valid JSON ({error.msg}, character {error.pos + 1}). Mend or remove the line."
                    ),
                )
            except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits too
                yield number, BadRowError(f"not valid JSON ({error}). Mend or remove the line.")


def _read_json(path: Path) -> Rows:
    try:
        rows = _loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRowError(f"{path.name}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"{path.name}: not valid JSON ({error}). One object a line is .jsonl.") from None
    if not isinstance(rows, list):
        raise BadRowError(f"{path.name}: expected a list of rows, found {type(rows).__name__}.")
    yield from enumerate(rows, start=1)


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8, odd dates
        raise BadRowError(f"{path.name}: not a readable Parquet file ({_line(error)}). Write it anew.") from None
    yield from enumerate(rows, start=1)


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _rows_of_folder(path: Path, split: str, config: str | None) -> Rows:
    """A folder that `save_to_disk` wrote, or one that `load_dataset` reads."""
    import datasets

    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    try:
        data = datasets.load_from_disk(str(path)) if saved else None
    except Exception as error:  # the library raises many kinds; each means that there is no data
        raise TrimtabError(f"data {path}: not a readable data set of save_to_disk ({_line(error)}).") from None
    if isinstance(data, dict) and split not in data:
        raise TrimtabError(f"data {path}: it has no split {split!r}. It has: {', '.join(data)}.")
    if data is None:
        if not any(file.is_file() for file in path.rglob("*.*")):
            raise TrimtabError(f"data {path}: a folder without files. {GIVE}")
        data = _load(str(path), split, config)
    elif isinstance(data, dict):
        data = data[split]
    return _numbered(data, path.name)


def _rows_of_hub(name: str, split: str, config: str | None) -> Rows:
    return _numbered(_load(name, split, config), name)


def _load(name: str, split: str, config: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as raised:  # the library raises many kinds; each means that there is no data
        error: BaseException = raised
        while error.__cause__ is not None:  # "An error occurred while generating the dataset" says nothing
            error = error.__cause__
        named = f" of config {config}" if config else ""
        what = "it can't be read" if Path(name).is_dir() else "no such file, and the hub could not give it"
        raise TrimtabError(
            f"data {name} (split {split}{named}): {what} ({type(error).__name__}: {_line(error)}). "
            "Check the name and the split, or give a .jsonl, .json or .parquet file."
        ) from None


def _numbered(data: Iterable[Any], name: str) -> Rows:
    number = 0
    try:
        for number, row in enumerate(data, start=1):
            yield number, row
    except (OSError, ValueError, TypeError) as error:  # a damaged file behind the data set; Arrow's are ValueErrors
        raise TrimtabError(f"data {name}: cannot be read after row {number} ({_line(error)}).") from None


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]
