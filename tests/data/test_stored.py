"""Rows of large sources, kept on the disk: what a run makes of them is what it makes of rows in memory."""

from __future__ import annotations

import gzip
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data import split_groups, stored_records
from trimtab.data.arrow_files import ArrowFile, write_batches
from trimtab.data.chat import ChatFormat
from trimtab.data.conditions import ScoreCondition
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import columns_of
from trimtab.data.split_groups import CompletionsOf, SplitCounts, check_completions, encode_records
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.data.stored_groups import JoinedGroups, StoredGroups, batch_of, changed, highest_token, longest_row
from trimtab.data.stored_records import RowFolder, StoredRecords, digest_of
from trimtab.errors import TrimtabError
from trimtab.notices import collected

Write = Callable[..., Path]
Encoded = tuple[Splits, Sequence[CompletionGroup], SplitCounts]


@pytest.fixture(params=[1, 2], ids=["one process", "two"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows are many, three are a process's share."""
    monkeypatch.setattr(stored_records, "LARGE", 4)
    for module in (stored_records, split_groups):
        monkeypatch.setattr(module, "BATCH", 3)
        monkeypatch.setattr(module, "processes", lambda: request.param)


def pairs(n: int, **more: Any) -> list[dict[str, Any]]:
    """Rows of seven prompts; every fifth is told apart by nothing, and so dropped."""
    chosen = [f"yes {i}" if i % 5 else "no" for i in range(n)]
    return [{"prompt": f"ask {i % 7}", "chosen": c, "rejected": "no", **more} for i, c in enumerate(chosen)]


def encode(
    settings: DataSettings, chat: ChatFormat, completions: CompletionsOf, cache: Path | None, expand: Any = None
) -> Encoded:
    splits = split_records(settings, cache)
    return splits, *encode_records(splits.train, chat, completions, expand)


def check_same(
    settings: DataSettings, chat: ChatFormat, completions: CompletionsOf, cache: Path, expand: Any = None
) -> None:
    """Splits, groups, counts and warnings are the same in memory, kept for the first time, and found again."""
    with collected() as said:
        splits, groups, counts = encode(settings, chat, completions, None, expand)
    for _ in range(2):
        with collected() as said_again:
            stored, again, same_counts = encode(settings, chat, completions, cache, expand)
        assert isinstance(stored.train, StoredRecords)
        assert isinstance(again, StoredGroups)
        assert list(again) == list(groups)
        assert same_counts == counts
        for name in ("train", "validation", "test"):
            assert list(getattr(stored, name)) == list(getattr(splits, name))
            assert [r.columns for r in getattr(stored, name)] == [r.columns for r in getattr(splits, name)]
        assert (stored.notes(), stored.unreadable) == (splits.notes(), splits.unreadable)
        assert said_again.lines == said.lines
        assert highest_token(again) == highest_token(list(groups))
        assert longest_row(again) == longest_row(list(groups))


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "ask"}]
ANSWER = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("rows", "completions", "settings"),
    [
        (pairs(20), "pair", {}),
        (pairs(20), "first", {"validation_rows": 5, "test_rows": 2, "train_rows": 9}),
        (pairs(20), "none", {"validation_share": 0.3, "test_share": 0.3}),
        (pairs(20, score_chosen=3.5, score_rejected=1), "all", {"limit": 6, "validation_rows": 8}),
        ([{"prompt": "a", "completion": f"é{i % 3}", "label": i % 2 == 0} for i in range(9)], "labelled", {}),
        ([{"prompt": "a", "completion": f"é{i % 3}", "label": i % 2 == 0} for i in range(9)], "first", {}),
        ([{"prompt": ASKED, "completion": [ANSWER], "tools": TOOLS, "id": i} for i in range(6)], "first", {}),
        ([*pairs(6), {"prompt": 3}, "no object", *pairs(6), {"prompt": "p"}], "none", {"bad_rows": "drop"}),
        (pairs(12, question="ask"), "pair", {"columns": {"prompt": "question"}}),
    ],
)
def test_what_comes_of_rows_on_the_disk(
    rows: list[Any], completions: CompletionsOf, settings: dict[str, Any], write_jsonl: Write, make_tokenizer: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    if "columns" in settings:
        rows = [{name: value for name, value in row.items() if name != "prompt"} for row in rows]
    data = DataSettings(train=str(write_jsonl(rows)), **settings)
    check_same(data, ChatFormat(make_tokenizer(), data), completions, tmp_path / "cache")


@pytest.mark.usefixtures("small")
def test_kinds_of_files(make_tokenizer: Any, write_jsonl: Write, tmp_path: Path) -> None:
    """All that is local: a folder of two files, CSV, and Parquet."""
    chat, table = (
        ChatFormat(make_tokenizer()),
        pa.Table.from_pylist(pairs(12, score_chosen=0.1, score_rejected=0.0)),
    )
    (tmp_path / "folder").mkdir()
    pq.write_table(table, tmp_path / "folder" / "train-1.parquet")
    write_jsonl(pairs(5), "folder/train-0.jsonl")
    pq.write_table(table, tmp_path / "rows.parquet")
    lines = ["prompt,chosen,rejected", *(",".join(row.values()) for row in pairs(8))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    for name in ("folder", "rows.parquet", "rows.csv"):
        check_same(DataSettings(train=str(tmp_path / name)), chat, "pair", tmp_path / "cache")


@pytest.mark.usefixtures("small")
def test_rows_that_json_cannot_hold_stay_in_memory(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(pairs(8, photo=b"\0")), tmp_path / "rows.parquet")
    train = split_records(DataSettings(train=str(tmp_path / "rows.parquet")), tmp_path / "cache").train
    assert isinstance(train, list)
    assert train[7].columns["photo"] == b"\0"


@pytest.mark.usefixtures("small")
def test_few_rows_stay_in_memory(write_jsonl: Write, tmp_path: Path) -> None:
    assert isinstance(split_records(DataSettings(train=str(write_jsonl(pairs(3)))), tmp_path / "cache").train, list)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("small")
def test_columns_are_looked_for_once(write_jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards are given all that any row has, at every step."""
    data = DataSettings(train=str(write_jsonl([*pairs(5), *pairs(3, hint="h")])), validation_rows=2)
    memory, splits = split_records(data), split_records(data, tmp_path / "cache")
    read: list[int] = []
    whole = RowFolder.records
    monkeypatch.setattr(RowFolder, "records", lambda self, rows: read.extend(rows) or whole(self, rows))
    for _ in range(2):
        for part in (slice(0, 2), slice(2, 6)):
            expected = columns_of(list(memory.train[part]), memory.train)
            assert columns_of([splits.train[i] for i in range(6)][part], splits.train) == expected
    assert read == [2, 3, 4, 5, 6, 7]


@pytest.mark.usefixtures("small")
def test_expanded_rows(write_jsonl: Write, make_tokenizer: Any, tmp_path: Path) -> None:
    """Two groups of a row, under a score condition."""
    data = DataSettings(train=str(write_jsonl(pairs(8, score_chosen=5.0, score_rejected=1.0))))
    condition = ScoreCondition(low=1, high=5)
    chat = ChatFormat(condition.tokenizer(make_tokenizer()), data)
    check_same(data, chat, "pair", tmp_path / "cache", condition.pairs)
    assert isinstance(encode(data, chat, "pair", tmp_path / "cache", lambda row: [row])[1], list)


# ---- which is raised


@pytest.mark.usefixtures("small")
def test_the_first_row_that_is_wrong_is_named(write_jsonl: Write, make_tokenizer: Any, tmp_path: Path) -> None:
    """Of several rows, in reading and in encoding, and before what is wrong with the file's end."""
    good, chat = pairs(30), ChatFormat(make_tokenizer())
    bad = [*good[:11], {"prompt": 1}, *good[:9], {"prompt": 2}]
    with pytest.raises(TrimtabError, match=r"bad\.jsonl:12: "):
        split_records(DataSettings(train=str(write_jsonl(bad, "bad.jsonl"))), tmp_path / "cache")
    packed = gzip.compress("\n".join(map(json.dumps, bad)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(TrimtabError, match=r"cut\.jsonl\.gz:12: "):
        split_records(DataSettings(train=str(tmp_path / "cut.jsonl.gz")), tmp_path / "cache")
    (tmp_path / "end.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, good)).encode())[:-9])
    with pytest.raises(TrimtabError, match=r"end\.jsonl\.gz: cannot be read after row"):
        split_records(DataSettings(train=str(tmp_path / "end.jsonl.gz")), tmp_path / "cache")
    lacking = [*good[:13], {"prompt": "p", "completion": "c"}, *good[:3], {"prompt": "q"}]
    train = split_records(DataSettings(train=str(write_jsonl(lacking))), tmp_path / "cache").train
    for ask in (lambda: encode_records(train, chat, "pair"), lambda: check_completions(train, "pair")):
        with pytest.raises(TrimtabError, match=r"rows\.jsonl:14: one completion only"):
            ask()
    with pytest.raises(TrimtabError, match=r"rows\.jsonl:18: a prompt without"):
        check_completions(train, "first")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(("tokens", "."))]


# ---- what is on the disk


@pytest.mark.usefixtures("small")
def test_found_again_without_a_look_at_the_rows(
    write_jsonl: Write, make_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is called otherwise, and where another process pickled the splits."""
    data = DataSettings(train=str(write_jsonl(pairs(20))), validation_share=0.2)
    splits, groups, counts = encode(data, ChatFormat(make_tokenizer(), data), "pair", tmp_path / "cache")

    def refuse(*_: Any) -> Iterator[Any]:
        raise AssertionError("rows were prepared again")

    for module in (stored_records, split_groups):
        monkeypatch.setattr(module, "in_order", refuse)
    for again in (split_records(data, tmp_path / "cache"), pickle.loads(pickle.dumps(splits))):
        found, same = encode_records(again.train, ChatFormat(make_tokenizer(), data), "pair")
        assert (list(found), same) == (list(groups), counts)
        assert list(again.validation) == list(splits.validation)


@pytest.mark.usefixtures("small")
def test_what_differs_is_prepared_anew(write_jsonl: Write, make_tokenizer: Any, tmp_path: Path) -> None:
    """Rows, how they are read, which of them, their completions, the length, the template, the tokenizer: each has
    files of its own; what changes no token has none."""
    cache = tmp_path / "cache"

    def kept() -> tuple[int, int]:
        return len(list(cache.glob("rows-*"))), len(list(cache.glob("tokens-*")))

    def prepare(rows: int = 8, completions: CompletionsOf = "pair", tokenizer: Any = None, **settings: Any) -> None:
        data = DataSettings(train=str(write_jsonl(pairs(rows))), **settings)
        encode(data, ChatFormat(tokenizer or make_tokenizer(), data), completions, cache)

    prepare()
    assert kept() == (1, 1)
    prepare(validation_split="test")
    assert kept() == (1, 1)
    for number, change in enumerate(
        ({"max_length": 512}, {"train_rows": 5}, {"completions": "first"}, {"control_tokens": "token"}), start=2
    ):
        prepare(**change)
        assert kept() == (1, number)
    other = make_tokenizer("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    prepare(tokenizer=other)
    assert kept() == (1, 6)
    grown = make_tokenizer()
    grown.add_tokens(["ask"])
    prepare(tokenizer=grown)
    assert kept() == (1, 7)
    prepare(rows=9)
    assert kept() == (2, 8)
    prepare(dialogue="text")
    assert kept() == (3, 9)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("what", ["rows.arrow", "source.json", "groups.arrow", "about.json", "checksums.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_what_is_damaged_is_prepared_anew(
    what: str, how: str, write_jsonl: Write, make_tokenizer: Any, tmp_path: Path
) -> None:
    data = DataSettings(train=str(write_jsonl(pairs(20))))
    chat = ChatFormat(make_tokenizer(), data)
    _, groups, counts = encode(data, chat, "pair", tmp_path / "cache")
    before = list(groups)
    for file in (tmp_path / "cache").glob(f"*/{what}"):
        content = bytearray(file.read_bytes())
        file.unlink()  # what is mapped stays as it was
        content[len(content) // 2] ^= 1
        if how != "gone":
            file.write_bytes(content if how == "changed" else content[:-8])
    with collected() as said:
        _, again, same = encode(data, chat, "pair", tmp_path / "cache")
    assert (list(again), same) == (before, counts)
    assert len(said.lines) == (2 if what == "checksums.json" else 1)
    assert all("they are prepared anew" in line and what in line for line in said.lines)
    with collected() as said:
        assert list(encode(data, chat, "pair", tmp_path / "cache")[1]) == before
    assert not said.lines


KILLED = """
import os, signal, sys
from pathlib import Path
from trimtab.data import stored_records, arrow_files
from trimtab.data.splits import DataSettings, split_records
stored_records.LARGE, stored_records.BATCH = 4, 3
whole = stored_records.in_order
def some(*given):
    for number, result in enumerate(whole(*given)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result
stored_records.in_order = some
split_records(DataSettings(train=sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.usefixtures("small")
def test_a_killed_writer_leaves_nothing_half(write_jsonl: Write, make_tokenizer: Any, tmp_path: Path) -> None:
    rows, cache = write_jsonl(pairs(20)), tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, str(rows), str(cache)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(cache.glob("rows-*"))
    check_same(DataSettings(train=str(rows)), ChatFormat(make_tokenizer()), "pair", cache)
    assert sorted(path.name.partition("-")[0] for path in cache.iterdir()) == ["rows", "tokens"]


# ---- one group, one record


TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple)


@st.composite
def some_group(draw: st.DrawFn) -> CompletionGroup:
    completions = draw(st.lists(TOKENS, min_size=1, max_size=3).map(tuple))
    k = len(completions)

    def each(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(value, min_size=k, max_size=k).map(tuple)

    number = st.floats(allow_nan=False, allow_infinity=False)
    suffixes = draw(st.just(()) | each(TOKENS))
    return CompletionGroup(
        draw(TOKENS), completions, draw(st.integers(-1, 2**40)), draw(st.just(()) | each(st.booleans())),
        draw(st.none() | each(number)), draw(st.none() | each(st.booleans())), suffixes,
    )  # fmt: skip


@given(batches=st.lists(st.lists(some_group(), max_size=4), max_size=4))
def test_groups_come_back_as_they_were(batches: list[list[CompletionGroup]], tmp_path_factory: Any) -> None:
    groups = [group for batch in batches for group in batch]
    file = tmp_path_factory.mktemp("groups") / "groups.arrow"
    write_batches(file, batch_of([]).schema, map(batch_of, batches))
    stored = StoredGroups(ArrowFile(file), 0, 0)
    assert list(stored) == groups
    assert [stored[-place] for place in range(1, len(groups) + 1)] == groups[::-1]
    assert stored[1:-1] == groups[1:-1]
    joined = JoinedGroups([stored, groups, [], stored])
    assert list(joined) == groups * 3
    numbered = changed(stored, lambda place, group: CompletionGroup(group.prompt, ((place,),)))
    assert [group.completions for group in numbered] == [((place,),) for place in range(len(groups))]
    with pytest.raises(IndexError):
        stored[len(groups)]


def test_a_digest_tells_prompts_and_answers_apart() -> None:
    """Parts that are the same when they are put together are not the same apart."""
    asked = [("ab", ("c",)), ("a", ("bc",)), ("ab", ("c", "")), ("ab", ()), ("['ab']", ())]
    assert len({digest_of(*each) for each in asked}) == len(asked)
    assert digest_of("ab", ("c",)) == digest_of("ab", ["c"])
