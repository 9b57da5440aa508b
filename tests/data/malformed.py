"""Two hundred ways to spoil real data, and what must come of each: an error, or a drop that is counted.

Each case takes the first rows of a real file of ../shared and spoils the third, or the whole file. `row` is the
number that the message must name; None where there is no row to name.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]
SOURCES = {
    "ultrafeedback": "ultrafeedback/train.jsonl",
    "sharegpt": "other_formats/sharegpt_dpo.json",
    "kto": "other_formats/kto.json",
    "hh": "other_formats/hh_prompt_chosen_rejected.jsonl",
}
SPOILT = 3
"""The row that is spoilt, counted from 1."""


@dataclass(frozen=True)
class Case:
    """make: rows and an empty folder -> what `--data` is given."""

    name: str
    source: str
    make: Callable[[Rows, Path], Path]
    row: int | None = None
    expected: Literal["error", "drop"] = "error"


def real_rows(shared: Path, source: str, count: int = 5) -> Rows:
    path = shared / "data" / SOURCES[source]
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()[:count]]
    return list(rows[:count])


def write_lines(rows: Rows, path: Path, third: bytes | None = None) -> Path:
    """JSONL; third: a line that stands in place of the third row."""
    lines = [json.dumps(row).encode() for row in rows]
    if third is not None:
        lines[SPOILT - 1] = third
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# ---- one value of one row


def at(row: Any, path: str, value: Any) -> None:
    """Sets row.a.b.0 = value; the value `...` takes the key away."""
    *way, last = path.split(".")
    for part in way:
        row = row[int(part)] if isinstance(row, list) else row[part]
    if value is ...:
        del row[last]
    else:
        row[int(last) if isinstance(row, list) else last] = value


def value_case(source: str, path: str, value: Any, expected: Literal["error", "drop"] = "error") -> Case:
    def make(rows: Rows, folder: Path) -> Path:
        at(rows[SPOILT - 1], path, value)
        return write_lines(rows, folder / "spoilt.jsonl")

    shown = "absent" if value is ... else repr(value)[:120]
    return Case(f"{source}: {path} = {shown}", source, make, SPOILT, expected)


def said(who: Any, what: Any) -> dict[str, Any]:
    return {"from": who, "value": what}


def turn(who: Any, what: Any) -> dict[str, Any]:
    return {"role": who, "content": what}


NOT_TEXT = (None, ..., 7, True, {}, [], [None], ["text"], "\ud800", [[1]])
NO_TURNS = (None, 7, "text", {}, [], [None], ["text"], [{}])
BAD_MESSAGES = (
    ("human",),
    (None, "x"),
    ("human", None),
    ("human", 7),
    ("bard", "x"),
    ("human", "\ud800"),
    (["human"], "x"),
)
BAD_ANSWERS = (None, ..., 7, [], {}, said("gpt", None), said("human", "x"), said("gpt", "\ud800"), said(3, "x"))
NO_LABEL = (None, 1, 0, 1.0, "true", "", [], {}, [True])


def bad_messages(first: str, second: str) -> Iterator[dict[str, Any]]:
    for values in BAD_MESSAGES:
        yield dict(zip((first, second), values, strict=False))


def value_cases() -> Iterator[Case]:
    for column in ("prompt", "chosen", "rejected"):
        for value in NOT_TEXT:
            yield value_case("ultrafeedback", column, value)
    for value in NO_TURNS:
        yield value_case("sharegpt", "conversations", value)
        yield value_case("kto", "messages", value)
    for message in bad_messages("from", "value"):
        yield value_case("sharegpt", "conversations.0", message)
    for message in bad_messages("role", "content"):
        yield value_case("kto", "messages.0", message)
    for side in ("chosen", "rejected"):
        for value in BAD_ANSWERS:
            yield value_case("sharegpt", side, value)
    for value in NO_LABEL:
        yield value_case("kto", "label", value)


def order_cases() -> Iterator[Case]:
    """Turns in an order that no conversation has, and turns that say nothing."""
    user, answer, system = said("human", "Hi."), said("gpt", "Ho."), said("system", "Be brief.")
    for turns in (
        [user, user],
        [answer, user],
        [user, system, user],
        [system, answer, user],
        [said("observation", "x")],
    ):
        yield value_case("sharegpt", "conversations", turns, "drop")
    for turns in (
        [said("human", "")],
        [said("human", " \n")],
        [user, said("gpt", ""), user],
        [system, said("human", "")],
    ):
        yield value_case("sharegpt", "conversations", turns, "drop")
    for turns in ([user, answer], [system], [answer]):
        yield value_case("sharegpt", "conversations", turns)
    for turns in ([turn("user", "a")], [turn("assistant", "a")], [turn("user", "a"), turn("user", "b")]):
        yield value_case("kto", "messages", turns)
    for text in ("", " \n", "Human: a\n\nHuman: b", "Human: \n\nAssistant: a\n\nHuman: b", "word " * 5000):
        yield value_case("hh", "prompt", text, "drop")
    yield value_case("hh", "prompt", "Human: a\n\nAssistant: b")
    yield value_case("hh", "prompt", ...)
    for side in ("chosen", "rejected"):
        for text in ("", " \n\t"):
            yield value_case("hh", side, text, "drop")


# ---- one line


def line_cases() -> Iterator[Case]:
    spoilt: dict[str, bytes] = {
        "opened only": b"{",
        "closed only": b"}",
        "null": b"null",
        "a list": b"[]",
        "a number": b"3",
        "text": b'"prompt"',
        "NaN": b"NaN",
        "no value": b'{"prompt": }',
        "single quotes": b"{'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}",
        "two rows": b'{"prompt": "a"} {"prompt": "b"}',
        "a comment": b"# rows from here on",
        "HTML": b"<html><body>404</body></html>",
        "CSV": b"prompt,chosen,rejected",
        "a key twice": b'{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}',
        "a control character": b'{"prompt": "a\x01", "chosen": "b", "rejected": "c"}',
        "zero bytes": b"\x00\x00\x00",
        "not UTF-8": b'{"prompt": "\xff"}',
        "Latin-1": '{"prompt": "é", "chosen": "b", "rejected": "c"}'.encode("latin-1"),
        "half a letter": '{"prompt": "é'.encode()[:-1],
        "UTF-16": '{"prompt": "a"}'.encode("utf-16-le"),
        "a byte order mark": b'\xef\xbb\xbf{"prompt": "a", "chosen": "b", "rejected": "c"}',
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 50_000,
        "5,000 digits": b'{"prompt": ' + b"1" * 5000 + b"}",
        "10 MB of one word": b"{" + b"a" * 10_000_000,
        "10 MB without its answer": b'{"prompt": "' + b"word " * 2_000_000 + b'", "chosen": null, "rejected": "a"}',
        "a row of another kind": b'{"text": "Human: a"}',
        "no column": b"{}",
    }
    for name, line in spoilt.items():
        yield Case(
            f"line: {name}",
            "ultrafeedback",
            partial(lambda line, rows, folder: write_lines(rows, folder / "spoilt.jsonl", line), line),
            SPOILT,
        )


# ---- whole files


def file_case(name: str, file: str, spoil: Callable[[bytes, Rows], bytes], row: int | None = None) -> Case:
    """spoil: the file's bytes, as JSONL, and its rows -> what is written instead."""

    def make(rows: Rows, folder: Path) -> Path:
        text = write_lines(rows, folder / "whole").read_bytes()
        (folder / "whole").unlink()
        (folder / file).write_bytes(spoil(text, rows))
        return folder / file

    return Case(f"file: {name}", "ultrafeedback", make, row)


def listed(rows: Rows) -> bytes:
    return json.dumps(rows).encode()


def file_cases() -> Iterator[Case]:
    yield file_case("empty", "spoilt.jsonl", lambda text, rows: b"")
    yield file_case("blank lines", "spoilt.jsonl", lambda text, rows: b"\n \n\n")
    yield file_case("a byte order mark alone", "spoilt.jsonl", lambda text, rows: b"\xef\xbb\xbf", 1)
    yield file_case("UTF-16", "spoilt.jsonl", lambda text, rows: text.decode().encode("utf-16"))
    yield file_case(
        "UTF-16 without a mark", "spoilt.jsonl", lambda text, rows: text.decode().encode("utf-16-be"), 1
    )
    yield file_case("UTF-32", "spoilt.jsonl", lambda text, rows: text.decode().encode("utf-32"))
    yield file_case("gzip", "spoilt.jsonl", lambda text, rows: gzip.compress(text))
    yield file_case("gzip called JSON", "spoilt.json", lambda text, rows: gzip.compress(text))
    yield file_case("zip", "spoilt.jsonl", lambda text, rows: b"PK\x03\x04" + text)
    yield file_case("cut", "spoilt.jsonl", lambda text, rows: text[:-20], 5)
    yield file_case("a list", "spoilt.jsonl", lambda text, rows: listed(rows), 1)
    yield file_case("indented", "spoilt.jsonl", lambda text, rows: json.dumps(rows[0], indent=1).encode(), 1)
    yield file_case("old line ends", "spoilt.jsonl", lambda text, rows: text.replace(b"\n", b"\r"), 1)
    yield file_case("JSONL called JSON", "spoilt.json", lambda text, rows: text)
    yield file_case("an object of rows", "spoilt.json", lambda text, rows: json.dumps({"data": rows}).encode())
    yield file_case("one row", "spoilt.json", lambda text, rows: json.dumps(rows[0]).encode())
    yield file_case("text", "spoilt.json", lambda text, rows: b'"rows"')
    yield file_case("null", "spoilt.json", lambda text, rows: b"null")
    yield file_case("no rows", "spoilt.json", lambda text, rows: b"[]")
    yield file_case("a list that is cut", "spoilt.json", lambda text, rows: listed(rows)[:-1])
    yield file_case("a comma too many", "spoilt.json", lambda text, rows: listed(rows)[:-1] + b",]")
    yield file_case("a list of lists", "spoilt.json", lambda text, rows: json.dumps([rows]).encode(), 1)
    yield file_case("Latin-1", "spoilt.json", lambda text, rows: b'[{"prompt": "\xe9"}]')
    yield file_case("deep", "spoilt.json", lambda text, rows: b"[" * 100_000)
    yield file_case("CSV", "spoilt.csv", lambda text, rows: b"prompt,chosen,rejected\na,b,c\nd,e\n", 2)
    yield file_case("CSV of a column twice", "spoilt.csv", lambda text, rows: b"prompt,chosen,chosen\na,b,c\n")
    yield file_case("CSV that is not UTF-8", "spoilt.csv", lambda text, rows: b"prompt,chosen,rejected\na,b,\xff\n")
    yield file_case("tabs", "spoilt.tsv", lambda text, rows: b"prompt\tchosen\trejected\na\tb\tc\n")
    yield file_case("no suffix", "spoilt", lambda text, rows: text)
    yield file_case("gzip that is cut", "spoilt.jsonl.gz", lambda text, rows: gzip.compress(text)[:-40])
    yield file_case("gzip by its name alone", "spoilt.jsonl.gz", lambda text, rows: text)
    yield file_case("zstd by its name alone", "spoilt.jsonl.zst", lambda text, rows: text)
    yield file_case("JSONL called Parquet", "spoilt.parquet", lambda text, rows: text)
    yield file_case("Parquet called JSONL", "spoilt.jsonl", lambda text, rows: parquet(rows))
    yield file_case("Parquet called JSON", "spoilt.json", lambda text, rows: parquet(rows))


def parquet(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def cut_parquet(share: float, text: bytes, rows: Rows) -> bytes:
    whole = parquet(rows)
    return whole[: int(share * len(whole))]


def columns(**found: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(found), sink)
    return bytes(sink.getvalue())


def parquet_cases() -> Iterator[Case]:
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        yield file_case(f"Parquet cut at {share}", "spoilt.parquet", partial(cut_parquet, share))
    yield file_case("Parquet without a start", "spoilt.parquet", lambda text, rows: b"XXXX" + parquet(rows)[8:])
    yield file_case("Parquet's marks alone", "spoilt.parquet", lambda text, rows: b"PAR1PAR1")
    yield file_case("Parquet of no content", "spoilt.parquet", lambda text, rows: b"PAR1" + b"\x00" * 400 + b"PAR1")
    yield file_case(
        "Parquet with a spoilt footer",
        "spoilt.parquet",
        lambda text, rows: parquet(rows)[:-40] + b"\xff" * 32 + parquet(rows)[-8:],
    )
    spoilt: dict[str, dict[str, Any]] = {
        "numbers": {"prompt": [1], "chosen": [2], "rejected": [3]},
        "bytes": {"prompt": [b"\xff"], "chosen": ["a"], "rejected": ["b"]},
        "lists of numbers": {"prompt": [[1]], "chosen": ["a"], "rejected": ["b"]},
        "objects": {"prompt": [{"a": 1}], "chosen": ["a"], "rejected": ["b"]},
        "nulls": {"prompt": pa.nulls(1), "chosen": pa.nulls(1), "rejected": pa.nulls(1)},
        "other names": {"a": ["a"], "b": ["b"]},
    }
    for name, found in spoilt.items():
        yield file_case(
            f"Parquet of {name}", "spoilt.parquet", partial(lambda f, text, rows: columns(**f), found), 1
        )
    no_text = pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())
    yield file_case("Parquet of no text", "spoilt.parquet", lambda text, rows: columns(prompt=no_text))
    yield file_case(
        "Parquet without rows", "spoilt.parquet", lambda text, rows: columns(prompt=pa.array([], pa.string()))
    )
    yield file_case("Parquet without columns", "spoilt.parquet", lambda text, rows: columns())


# ---- folders and links


def loop(rows: Rows, folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to(folder / "b.jsonl")
    (folder / "b.jsonl").symlink_to(folder / "a.jsonl")
    return folder / "a.jsonl"


def dangling(rows: Rows, folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to(folder / "absent.jsonl")
    return folder / "a.jsonl"


def pipe(rows: Rows, folder: Path) -> Path:
    os.mkfifo(folder / "a.jsonl")
    return folder / "a.jsonl"


def named_like_a_file(rows: Rows, folder: Path) -> Path:
    (folder / "a.jsonl").mkdir()
    return folder / "a.jsonl"


def folder_in_a_circle(rows: Rows, folder: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "again").symlink_to(folder)
    return folder


def folder_of(name: str, content: bytes) -> Callable[[Rows, Path], Path]:
    def make(rows: Rows, folder: Path) -> Path:
        (folder / "data").mkdir()
        (folder / "data" / name).write_bytes(content)
        return folder / "data"

    return make


def saved(rows: Rows, folder: Path, spoil: Callable[[Path], None]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    spoil(folder / "saved")
    return folder / "saved"


def without_rows(rows: Rows, folder: Path) -> Path:
    return saved(rows, folder, lambda where: next(where.glob("*.arrow")).unlink())


def with_noise(rows: Rows, folder: Path) -> Path:
    return saved(rows, folder, lambda where: next(where.glob("*.arrow")).write_bytes(b"\x00" * 999))


def without_state(rows: Rows, folder: Path) -> Path:
    return saved(rows, folder, lambda where: (where / "state.json").write_text("{"))


def with_other_splits(rows: Rows, folder: Path) -> Path:
    data = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train_prefs": data}).save_to_disk(folder / "saved")
    return folder / "saved"


def saved_with_a_bad_row(rows: Rows, folder: Path) -> Path:
    rows[SPOILT - 1]["chosen"] = None
    return saved(rows, folder, lambda where: None)


def place_cases() -> Iterator[Case]:
    for make in (
        loop, dangling, pipe, named_like_a_file, folder_in_a_circle,
        without_rows, with_noise, without_state, with_other_splits,
    ):  # fmt: skip
        yield Case(f"place: {make.__name__}", "ultrafeedback", make)
    yield Case("place: saved_with_a_bad_row", "ultrafeedback", saved_with_a_bad_row, SPOILT)
    yield Case("place: absent", "ultrafeedback", lambda rows, folder: folder / "absent.jsonl")
    yield Case("place: a long name", "ultrafeedback", lambda rows, folder: folder / f"{'a' * 300}.jsonl")
    yield Case("place: a device", "ultrafeedback", lambda rows, folder: Path("/dev/null"))
    yield Case("place: a folder of text", "ultrafeedback", folder_of("a.txt", b"text\n"))
    yield Case("place: a folder of broken JSONL", "ultrafeedback", folder_of("a.jsonl", b'{"prompt": \n'))
    yield Case("place: a folder of a program", "ultrafeedback", folder_of("data.py", b"import os"))


CASES = [*value_cases(), *order_cases(), *line_cases(), *file_cases(), *parquet_cases(), *place_cases()]
