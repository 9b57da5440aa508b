"""What stands beside texts: thoughts, tool calls, tools, values of the template's variables, and the day."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import byte_tokenizer
from data.odd_rows import ASKED, CALL, FOUND, TOOL, pair, talk, turn
from data.test_odd_rows import TOOLS
from trimtab.data.chat import ChatFormat, Dropped, TruncationSettings
from trimtab.data.day import day_for, keep_day
from trimtab.data.folders import NoSuchSplitError, files_of
from trimtab.data.hashing import hash_source
from trimtab.data.message import (
    Answer,
    Conversation,
    Message,
    context_columns,
    strip_last_pair,
    tools_and_values,
)
from trimtab.data.records import ReadingSettings, Record, columns_of, read_records, to_record
from trimtab.data.split_groups import SplitCounts, encode_records
from trimtab.data.template_features import NOT_RENDERED, variables_of
from trimtab.errors import TrimtabError
from trimtab.rewards.cache import digest

LONG = TruncationSettings(max_length=4000)


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(byte_tokenizer(TOOLS), LONG)


def learned(chat: ChatFormat, row: Any) -> list[str]:
    group = chat.encode(to_record(row, "r:1"))
    assert not isinstance(group, Dropped), group
    return [chat.tokenizer.decode(tokens) for tokens in group.completions]


def test_what_the_template_renders_of_an_answer_is_learned(chat: ChatFormat) -> None:
    row = talk(chosen=[turn("assistant", "Blue.", reasoning_content="Light.")])
    assert learned(chat, row) == ["<think>Light.</think>Blue.<|im_end|>", "Green.<|im_end|>"]
    called = learned(chat, talk(chosen=[ASKED]))[0]
    assert called == f"{json.dumps([CALL])}<|im_end|>"


def test_a_template_that_knows_no_calls(chat: ChatFormat) -> None:
    """The calls are all that the turn says: the row is dropped. Thoughts and tools are counted, the row kept."""
    plain = ChatFormat(byte_tokenizer(), LONG)
    rows = [talk(ASKED, FOUND), talk(chosen=[turn("assistant", "Blue.", thinking="Hm.")]), pair(tools=[TOOL])]
    _, counts = encode_records([to_record(row, f"r:{i}") for i, row in enumerate(rows)], plain, "pair")
    assert counts.dropped == {NOT_RENDERED: 1}
    assert counts.used == 2
    behind = ", which the chat template does not render"
    assert {name.removesuffix(behind) for name in counts.ignored} == {
        "thinking",
        "tools",
        "tool_calls",
        "tool_call_id",
    }
    assert learned(plain, rows[1])[0] == "Blue.<|im_end|>"


def test_prompts_are_equal_only_with_all_that_stands_beside_them() -> None:
    rows: list[Any] = [pair(), pair(tools=[TOOL]), pair(chat_template_kwargs={"a": 1}), talk(), talk(ASKED, FOUND)]
    prompts = [to_record(row, "r:1").prompt for row in rows]
    assert len(set(prompts)) == len({repr(p) for p in prompts}) == len({digest(p) for p in prompts}) == len(rows)
    alike = (Message("user", "Sky?"),)
    assert prompts[1] != alike
    assert alike != prompts[1]
    assert prompts[3] == alike
    assert repr(alike[0]) == "Message(role='user', content='Sky?')"
    said, bare = Answer("a", '{"reasoning_content": "b"}'), Answer("a", '{"reasoning_content": "c"}')
    assert len({said, bare, str(said)}) == 3
    assert said != "a"
    assert said != "<think>\nb\n</think>\na"
    for one in (prompts[1], said):
        again = pickle.loads(pickle.dumps(one))
        assert again == one
        assert type(again) is type(one)


def test_tools_stay_when_turns_go() -> None:
    turns = Conversation([Message(r, r) for r in ("user", "assistant", "user")], "[1]", '{"a": 1}')
    shorter = strip_last_pair(turns)
    assert shorter is not None
    assert len(shorter) == 1
    assert tools_and_values(shorter) == ("[1]", '{"a": 1}')
    assert context_columns(turns) == {"tools": [1], "chat_template_kwargs": {"a": 1}}


def test_values_of_the_template(chat: ChatFormat) -> None:
    """The recipe's reach it, a row's come before them; what it does not read is named."""
    values = {"style": "brief", "absent": 1}
    brief = ChatFormat(chat.tokenizer, TruncationSettings(chat_template_kwargs=values))
    assert chat.tokenizer.decode(brief.prompt_ids("Sky?")).startswith("[brief]")
    long = to_record(pair(chat_template_kwargs={"style": "long"}), "r:1").prompt
    assert chat.tokenizer.decode(brief.prompt_ids(long)).startswith("[long]")
    assert brief.unread_values == ["absent"]
    assert "style" in variables_of(TOOLS)
    assert "chat_template_kwargs" not in LONG.model_dump()
    with pytest.raises(ValueError, match="tokenize"):
        TruncationSettings(chat_template_kwargs={"tokenize": True})


def test_the_day_is_fixed(tmp_path: Path) -> None:
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}|{% endif %}" + TOOLS
    chat = ChatFormat(byte_tokenizer(dated), LONG)
    first = datetime.date(2025, 2, 1)
    assert chat.asks_for_today
    assert day_for(tmp_path) == datetime.date.today()
    assert day_for(tmp_path, None, first) == first
    keep_day(tmp_path, first)
    kept = chat.with_day(day_for(tmp_path, datetime.date(2026, 1, 1)))
    assert chat.tokenizer.decode(kept.prompt_ids("Sky?")).startswith("01 Feb 2025|")
    assert kept.tokenizer.chat_template == dated


# ---- files

ROWS = [
    pair(prompt="42", chosen="null", note=None),
    talk(ASKED, FOUND, tools=[TOOL]),
    talk(chosen=[turn("assistant", [{"type": "text", "text": 'Say "blue".'}])]),
]


def test_the_same_rows_whatever_the_path(tmp_path: Path) -> None:
    """As a file, packed, in a folder, and as Parquet that `datasets` wrote of mixed content (arrow.json)."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    plain = tmp_path / "rows.jsonl"
    plain.write_text(text)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "train-00000-of-00001.jsonl").write_text(text)
    cache = str(tmp_path / "cache")
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(text.replace('"null"', '"nil"').replace('"42"', '"?"'))  # it would take them for JSON
    made = datasets.load_dataset("json", data_files=str(mixed), split="train", cache_dir=cache)
    made.to_parquet(tmp_path / "rows.parquet")
    want = [(r.prompt, r.completions) for r in read_records(str(plain))]
    assert want[2][1][0] == 'Say "blue".'
    assert want[0] == ("42", ("null", "Green."))
    for name in ("rows.jsonl.gz", "set"):
        assert [(r.prompt, r.completions) for r in read_records(str(tmp_path / name))] == want, name
    found = [(r.prompt, r.completions) for r in read_records(str(tmp_path / "rows.parquet"))]
    assert found == [("?", ("nil", "Green.")), *want[1:]]


def test_csv(tmp_path: Path) -> None:
    """Every value is text; messages in JSON are messages, and scores in text numbers."""
    path = tmp_path / "rows.csv"
    path.write_text('prompt,chosen,rejected,score_chosen,score_rejected\n42,"a ""b""",007,8.5,1\n')
    assert read_records(str(path))[0] == Record("42", ('a "b"', "007"), (8.5, 1.0), "rows.csv:1")


CONFIGS = """---
configs:
- config_name: one
  data_files: [{split: train, path: "a/*.jsonl"}, {split: held, path: b.jsonl}]
- config_name: two
  data_dir: sub
---
"""


@pytest.mark.parametrize(
    ("names", "readme", "split", "config", "found"),
    [
        (["a.jsonl", "b.jsonl"], "", "train", None, ["a.jsonl", "b.jsonl"]),
        (["train.jsonl", "test.jsonl"], "", "test", None, ["test.jsonl"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "x.json"], "", "train", None,
         ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
        (["my_dev.jsonl", "my_train_2.jsonl"], "", "validation", None, ["my_dev.jsonl"]),
        (["train/a.jsonl", "eval/a.jsonl"], "", "test", None, ["eval/a.jsonl"]),
        ([".cache/train.jsonl", "constrain.jsonl"], "", "train", None, ["constrain.jsonl"]),
        (["a/x.jsonl", "a/y.jsonl", "b.jsonl"], CONFIGS, "train", "one", ["a/x.jsonl", "a/y.jsonl"]),
        (["a/x.jsonl", "b.jsonl"], CONFIGS, "held", "one", ["b.jsonl"]),
        (["sub/train.jsonl", "train.jsonl"], CONFIGS, "train", "two", ["sub/train.jsonl"]),
        (["a.jsonl"], CONFIGS, "train", None, "name one"),
        (["a.jsonl"], CONFIGS, "train", "three", "no configuration 'three'. It has: one, two"),
        (["a.jsonl"], "", "test", None, "no split 'test'. It has: train"),
        (["a.jsonl"], "---\nconfigs: [\n---\n", "train", None, "its README.md names .* and cannot be read"),
        (["a.jsonl"], "---\nlicense: [\n---\n", "train", None, ["a.jsonl"]),
        (["b/y.jsonl"], CONFIGS, "train", "one", "names files of split 'train', and none of them is there"),
    ],
)  # fmt: skip
def test_files_of_a_split(names: list[str], readme: str, split: str, config: str | None, found: Any) -> None:
    if isinstance(found, list):
        assert files_of(names, readme, split, config) == found
        return
    with pytest.raises(NoSuchSplitError, match=found):
        files_of(names, readme, split, config)


def test_a_card_that_names_files_is_a_part_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    hashes = [hash_source(str(tmp_path), nested=True)]
    for card in ("# Words", CONFIGS, CONFIGS.replace("b.jsonl", "c.jsonl")):
        (tmp_path / "README.md").write_text(card)
        hashes.append(hash_source(str(tmp_path), nested=True))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_columns_that_are_read_after_all() -> None:
    counts = SplitCounts(rows=3, used=3, ignored={"column weight": 2, "column id": 3})
    assert counts.but_for(lambda name: name == "weight").summary == "3 of 3 rows used; not used: column id (3 rows)"
    assert SplitCounts(rows=3, used=3).summary == ""


def test_a_part_of_a_folder_that_cannot_be_read_is_no_less_data(tmp_path: Path, monkeypatch: Any) -> None:
    """A shard whose link leads nowhere, or a folder that may not be entered: not a word, and rows are missing."""
    (tmp_path / "train-0.jsonl").write_text(json.dumps(pair()) + "\n")
    (tmp_path / "train-1.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(TrimtabError, match=r"train-1\.jsonl: a link to .*gone, where nothing is"):
        read_records(str(tmp_path))
    (tmp_path / "train-1.jsonl").unlink()
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone")  # nobody would read it
    assert len(read_records(str(tmp_path))) == 1
    (tmp_path / "more").mkdir()
    scan = os.scandir

    def locked(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(TrimtabError, match=r"more: cannot be read \(Permission denied\)"):
        read_records(str(tmp_path))


def test_maps_and_decimals_of_parquet_are_objects_and_numbers(tmp_path: Path) -> None:
    values = pa.array([[("style", "brief")]], pa.map_(pa.string(), pa.string()))
    columns = {name: [text] for name, text in pair().items()}
    scores = {"score_chosen": [Decimal("8.50")], "score_rejected": ["3"]}
    pq.write_table(pa.table({**columns, **scores, "chat_template_kwargs": values}), tmp_path / "a.parquet")
    (record,) = read_records(str(tmp_path / "a.parquet"))
    assert record.scores == (8.5, 3.0)
    assert tools_and_values(record.prompt)[1] == '{"style": "brief"}'


def test_what_a_system_turn_and_parts_leave_out_is_counted() -> None:
    turns = [
        {"role": "system", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": "x", "seen": 1}]},
    ]
    row = {"prompt": turns, "chosen": "b", "rejected": "c"}
    assert to_record(row | {"system": "B"}, "").ignored == (
        "key seen of messages",
        "column system, beside a system turn",
    )
    assert to_record(row | {"system": " A\n"}, "").ignored == ("key seen of messages",)


def test_columns_of_a_batch_are_those_of_the_data() -> None:
    """Or a reward's argument would be there in some batches only."""
    rows = [to_record({"prompt": "a", "answer": 4}, ""), to_record({"prompt": "b"}, "")]
    assert columns_of(rows[1:], rows) == {"answer": [None]}
    assert columns_of(rows[1:]) == {}


def test_one_column_is_not_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' cannot be two of trimtab's at once"):
        ReadingSettings(columns={"prompt": "a", "chosen": "a"})
