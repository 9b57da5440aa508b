"""Every supported layout is read; every bad row is one TrimtabError that names file and row."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.layout_rows import BLUE, GREEN, LABELLED, LAYOUTS, SKY, USER, turn
from trimtab.data.records import Record, read_records, to_record
from trimtab.errors import TrimtabError


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_layout_from_every_kind_of_file(name: str, suffix: str, tmp_path: Path) -> None:
    """Two equal rows; the second one's origin is row 2."""
    row, prompt, completions, scores = LAYOUTS[name]
    _check_file(row, Record(prompt, completions, scores, f"rows{suffix}:2"), suffix, tmp_path)


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("name", LABELLED)
def test_every_labelled_layout(name: str, label: bool, tmp_path: Path) -> None:
    row, prompt = LABELLED[name]
    expected = Record(prompt, ("Blue.",), None, "rows.parquet:2", labels=(label,))
    _check_file(row | {"label": label}, expected, ".parquet", tmp_path)
    assert read_records(str(tmp_path / "rows.parquet"))[0].is_unpaired


def _check_file(row: Any, expected: Record, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), path)
    elif suffix == ".json":
        path.write_text(json.dumps([row, row], indent=1))
    else:
        path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}")
    records = read_records(str(path))
    assert records[1] == expected
    assert len(records) == 2


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    """A byte order mark, a blank line and Windows line ends; the row on line 3 is called 3."""
    row = json.dumps({"prompt": "é", "completion": "ñ"}, ensure_ascii=False)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\r\n{row}\r\n".encode())
    assert [record.origin for record in read_records(str(path))] == ["rows.jsonl:1", "rows.jsonl:3"]


def test_real_ultrafeedback(shared_data: Path) -> None:
    """The counts of ../shared/data/README.md."""
    records = read_records(str(shared_data / "data" / "ultrafeedback" / "train.jsonl"))
    assert len(records) == 1000
    assert sum(r.completions[0] == r.completions[1] for r in records) == 4
    assert sum(r.scores[0] == r.scores[1] for r in records if r.scores) == 111
    assert sum("" in r.completions for r in records) == 2
    assert all(r.scores and r.scores[0] >= r.scores[1] for r in records)
    longer = sum(len(r.completions[0]) > len(r.completions[1]) for r in records)
    assert round(longer / 10) == 55
    assert records[0].prompt == "how to cook t-bone in the oven"


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's rows are read the same; its own errors become one that says what to check."""
    import datasets
    import huggingface_hub

    asked = []

    def unreachable(*_: Any, **__: Any) -> Any:  # at once: the library asks again for 20 seconds
        raise ConnectionError("no network")

    def load(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        if "absent" in name:
            raise datasets.exceptions.DatasetNotFoundError("no such data set")
        return datasets.Dataset.from_list([{"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}])

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", load)
    [record] = read_records("someone/pairs", "train_prefs", "default")
    assert asked == [("someone/pairs", "default", "train_prefs")]
    assert record == Record((USER,), ("Blue.", "Green."), None, "someone/pairs/train_prefs:1")
    with pytest.raises(TrimtabError, match=r"someone/absent.*no such data set.*Check the name and the split"):
        read_records("someone/absent")


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
BAD_ROWS: dict[str, tuple[Any, str]] = {
    "broken JSON": ('{"prompt": "p", ', "not valid JSON"),
    "a number of 5,000 digits": ('{"prompt": ' + "1" * 5000 + "}", "not valid JSON"),
    "nested without end": ("[" * 100_000, "not valid JSON"),
    "a list": (["p", "a", "b"], "expected an object with named columns, found list"),
    "missing rejected": ({"prompt": "p", "chosen": "a"}, "'rejected' is missing or null"),
    "missing chosen": ({"prompt": "p", "rejected": "a"}, "'chosen' is missing or null"),
    "missing prompt": ({"chosen": "a", "rejected": "b"}, "'prompt' is missing or null"),
    "missing prompt of a completion": ({"completion": "a"}, "'prompt' is missing or null"),
    "no known column": ({"words": "p"}, "Columns found: words. A row needs prompt"),
    "text alone": ({"text": "p"}, "column 'text' alone does not say .* Split it into 'prompt' and 'completion'"),
    "no column": ({}, "Columns found: none"),
    "null": (GOOD | {"chosen": None}, "'chosen' is missing or null"),
    "all null": ({"prompt": "p", "chosen": None, "rejected": None}, r"chosen \(null\), rejected \(null\)"),
    "null prompt": (GOOD | {"prompt": None}, "'prompt' is missing or null"),
    "wrong type": (GOOD | {"chosen": 7}, "'chosen' must be text or a list of messages, found int"),
    "wrong type of prompt": (
        GOOD | {"prompt": {"a": 1}},
        "'prompt' must be text or a list of messages, found dict",
    ),
    "wrong type of prompt beside conversations": (
        {"prompt": 7, "chosen": [SKY, BLUE], "rejected": [SKY, GREEN]},
        "'prompt' must be text or a list of messages, found int",
    ),
    "lone surrogate": ('{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "'chosen' holds a lone surrogate"),
    "lone surrogate in a response": (
        '{"instruction": "p", "completions": [{"response": "\\udfff", "overall_score": 1}]}',
        "'response' holds a lone surrogate",
    ),
    "empty conversation": (GOOD | {"prompt": []}, "'prompt' is a conversation without messages"),
    "unknown role": (
        GOOD | {"prompt": [turn("bot", "p")]},
        "unknown role 'bot'. Known: system, user, human, assistant",
    ),
    "message without content": (GOOD | {"prompt": [{"role": "user"}]}, "each message needs 'role' and 'content'"),
    "message of null": (GOOD | {"prompt": [turn("user", None)]}, "'prompt.content' must be text"),
    "answer is the user's": (
        GOOD | {"chosen": [SKY]},
        "'chosen' must be one assistant turn after the prompt, found user",
    ),
    "answer of two turns": ({"prompt": [SKY], "completion": [BLUE, BLUE]}, "found assistant → assistant"),
    "prompts that differ": (
        {"chosen": [SKY, BLUE], "rejected": [turn("user", "Sea?"), GREEN]},
        "do not share the turns before their last",
    ),
    "conversations of the answer alone": ({"chosen": [BLUE], "rejected": [GREEN]}, "nothing is shared"),
    "no completions": ({"instruction": "p", "completions": []}, "list of completions that is not empty"),
    "completion without response": ({"instruction": "p", "completions": [{}]}, "needs a text 'response'"),
    "completion without score": (
        {"instruction": "p", "completions": [{"response": "a"}]},
        "none of 'completions' has",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(name: str, write_jsonl: Callable[..., Path]) -> None:
    row, message = BAD_ROWS[name]
    path = write_jsonl([GOOD, row], "bad.jsonl")
    with pytest.raises(TrimtabError, match=message) as found:
        read_records(str(path))
    assert str(found.value).startswith("bad.jsonl:2: ")


def test_bad_files(tmp_path: Path) -> None:
    """Files that cannot be read at all. Where a row can be named, it is."""

    def message(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(TrimtabError) as found:
            read_records(str(path))
        assert name in str(found.value)
        return str(found.value)

    pq.write_table(pa.Table.from_pylist([GOOD] * 100), tmp_path / "whole.parquet")
    parquet = (tmp_path / "whole.parquet").read_bytes()
    not_text = pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": not_text, "completion": ["a"]}), tmp_path / "bytes.parquet")

    assert "the file is empty" in message("a.jsonl", b"")
    assert "holds no rows" in message("b.jsonl", b"\n\n")
    assert "holds no rows" in message("c.json", b"[]")
    assert "c.jsonl:2: not UTF-8" in message("c.jsonl", json.dumps(GOOD).encode() + b'\n{"prompt": "\xe9"}')
    assert "not UTF-8" in message("d.json", b'[{"prompt": "\xe9"}]')
    assert "expected a list of rows, found dict" in message("e.json", json.dumps(GOOD).encode())
    assert "One object a line is .jsonl" in message("f.json", (json.dumps(GOOD) + "\n").encode() * 2)
    assert "f.json:1: expected an object" in message("f.json", b"[3]")
    assert "not a readable Parquet file" in message("g.parquet", parquet[: len(parquet) // 2])
    assert "not a readable Parquet file" in message("bytes.parquet", (tmp_path / "bytes.parquet").read_bytes())
    assert "unknown kind of file. Known: .jsonl, .json, .parquet" in message("h.tsv", b"prompt,chosen")


@pytest.mark.parametrize("name", ["absent.jsonl", "./absent", "~nobody-of-this-name/absent.json"])
def test_no_such_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrimtabError, match=r"no such file. Give a .jsonl, .json or .parquet file"):
        read_records(name)


HOSTILE = st.sampled_from([None, True, 10**400, math.nan, math.inf, "", "user", "\ud800", [], {}])
JUNK = HOSTILE | st.recursive(
    HOSTILE | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spoilt_rows(draw: st.DrawFn) -> Any:
    """A row of a known layout, with junk in place of up to two of its parts, at any depth."""
    known = [*(row for row, *_ in LAYOUTS.values()), *(row | {"label": True} for row, _ in LABELLED.values())]
    row: Any = {"row": copy.deepcopy(draw(st.sampled_from(known)))}
    for _ in range(draw(st.integers(0, 2))):
        place, key = row, "row"
        while isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place[key] = draw(JUNK)
    return row["row"]


@given(spoilt_rows())
@settings(max_examples=500, deadline=None)
def test_any_row_is_a_record_or_a_trimtab_error(row: Any) -> None:
    """And a record that is given out is sound: text that can be written, finite scores, one per completion."""
    problem = ""
    try:
        record = to_record(row, "file:7")
    except TrimtabError as error:
        problem = str(error)
    if problem:
        assert problem.startswith("file:7: ")
        return
    turns = [record.prompt] if isinstance(record.prompt, str) else [m.content for m in record.prompt]
    assert turns
    # A task that nobody has annotated, or that lacks an answer, is a prompt alone: a null is a column left out.
    task = [row[name] for name in ("answer1", "answer2", "annotation_id") if name in row]
    assert record.completions or (len(task) == 3 and None in task)
    for text in (*turns, *record.completions):
        text.encode("utf-8")
    if record.scores is not None:
        assert len(record.scores) == len(record.completions)
        assert all(math.isfinite(score) for score in record.scores)
    assert record.labels is None or [type(label) for label in record.labels] == [bool]
