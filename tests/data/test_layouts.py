"""Other people's data: their columns, their labels, their folders, and the real files of ../shared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from data.layout_rows import BLUE, SKY, said, turn
from trimtab.data.chat import ChatFormat, TruncationSettings
from trimtab.data.fields import dialogue_turns, turn_order_problem
from trimtab.data.hashing import hash_source
from trimtab.data.labels import pair_by_label
from trimtab.data.layouts import LAYOUTS
from trimtab.data.records import Message, ReadingSettings, Record, read_records, to_record
from trimtab.data.split_groups import UNDESIRABLE, encode_records
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError

PAIR = {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}
USER, ASSISTANT, SYSTEM, TOOL = (Message(role, "x") for role in ("user", "assistant", "system", "tool"))
Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "The sky", "rejected": "The sea"}, "'chosen' is no text of 'Human:' and 'Assistant:' turns"),
        (
            {"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: c\n\nAssistant: b"},
            "do not share the text before their last 'Assistant:'",
        ),
        (
            {"prompt": "Human: a\n\nAssistant: b", "chosen": "c", "rejected": "d"},
            "the prompt ends with a turn of role 'assistant'",
        ),
        ({"prompt": [SKY, BLUE], "completion": "c"}, "the prompt ends with a turn of role 'assistant'"),
        ({"messages": [BLUE]}, "'messages' needs a turn before the assistant's last"),
        ({"messages": [SKY, turn("user", "Sea?")]}, "'messages' must be one assistant turn after the prompt"),
        ({"messages": [SKY, BLUE], "chosen": "a"}, "'rejected' is missing or null"),
        ({"messages": [SKY, BLUE], "label": None}, "'label' is null"),
        ({"prompt": "p", "completion": "c", "label": 1}, "'label' beside a completion is KTO's.*found int"),
        ({"conversations": [said("bard", "x")]}, "unknown role 'bard'"),
        ({"conversations": "Sky?"}, "'conversations' must be a list of messages, found str"),
        ({"instruction": "p", "output": "c", "history": ["p"]}, "'history' must be a list of exchanges"),
        ({"instruction": "p", "output": "c", "input": 3}, "'input' must be text"),
        (PAIR | {"system": 3}, "'system' must be text"),
    ],
)
def test_rows_that_cannot_be_read(row: Any, message: str) -> None:
    with pytest.raises(TrimtabError, match=f"^rows:3: .*{message}"):
        to_record(row, "rows:3")


def test_columns_of_other_names() -> None:
    """They are renamed before the layout is known; a name that is absent is an error that shows what there is."""
    row = {"question": "Sky?", "response_a": "Blue.", "response_b": "Green.", "id": 7}
    settings = ReadingSettings(columns={"prompt": "question", "chosen": "response_a", "rejected": "response_b"})
    record = to_record(row, "rows:1", settings)
    assert record == Record("Sky?", ("Blue.", "Green."), None, "rows:1")
    assert record.columns == {"chosen": "Blue.", "rejected": "Green.", "id": 7}
    swapped = ReadingSettings(columns={"chosen": "rejected", "rejected": "chosen"})
    assert to_record(PAIR, "rows:1", swapped).completions == ("Green.", "Blue.")
    with pytest.raises(
        TrimtabError, match=r"rows:1: column 'question' \(data.columns: prompt, .*first\) is missing.*: p"
    ):
        to_record({"p": "Sky?"}, "rows:1", settings)


def test_text_as_turns() -> None:
    """Only text that begins with "Human:", and only marks that begin a paragraph."""
    assert dialogue_turns("Why does a Human: sign\n\nAssistant: say") == "Why does a Human: sign\n\nAssistant: say"
    assert dialogue_turns("Assistant: hi\n\nHuman: ho") == "Assistant: hi\n\nHuman: ho"
    assert dialogue_turns("Human: say\nAssistant: x") == (Message("user", "say\nAssistant: x"),)
    row = {"prompt": "Human: Sky?", "completion": "Blue."}
    assert to_record(row, "", ReadingSettings(dialogue="text")).prompt == "Human: Sky?"


def test_order_of_turns() -> None:
    assert turn_order_problem((SYSTEM, USER, ASSISTANT, TOOL, TOOL, ASSISTANT, USER)) is None
    for turns in ((USER, SYSTEM, USER), (ASSISTANT, USER), (USER, USER), (USER, ASSISTANT), (SYSTEM,), (TOOL,)):
        assert turn_order_problem(turns) == "turns out of order"
    assert turn_order_problem((Message("system", ""), USER)) is None
    assert turn_order_problem((USER, Message("assistant", "\n"), USER)) == "empty turn"


def test_bad_rows_can_be_dropped(write_jsonl: Write) -> None:
    """Broken lines too; a source of which nothing can be read stays an error."""
    path = str(write_jsonl([PAIR, "{", PAIR | {"chosen": 3}, PAIR]))
    with pytest.raises(TrimtabError, match=r"rows.jsonl:2: not valid JSON"):
        split_records(DataSettings(train=path))
    splits = split_records(DataSettings(train=path, bad_rows="drop"))
    assert [record.origin for record in splits.train] == ["rows.jsonl:1", "rows.jsonl:4"]
    assert [reason[:13] for reason in splits.notes()["unreadable_rows"]] == ["rows.jsonl:2:", "rows.jsonl:3:"]
    write_jsonl(["{", "["])
    with pytest.raises(TrimtabError, match=r"none of its 2 rows can be read. rows.jsonl:1: not valid JSON"):
        split_records(DataSettings(train=path, bad_rows="drop"))


# ---- labels


def labelled(prompt: str, completion: str, label: bool, row: int) -> Record:
    return Record(prompt, (completion,), None, f"f:{row}", labels=(label,))


def test_labels_are_paired_on_request_only(make_tokenizer: Callable[..., Any], write_jsonl: Write) -> None:
    """p has two good and one bad, q one good, r one bad: one pair, and three without a partner."""
    said = [("p", "a", True), ("q", "b", True), ("p", "c", True), ("p", "d", False), ("r", "e", False)]
    records = [labelled(*one, row) for row, one in enumerate(said, start=1)]
    expected = Record("p", ("a", "d"), None, "f:1 with f:4", labels=(True, False))
    assert pair_by_label([*records, Record("s", ("x", "y"))]) == ([expected, Record("s", ("x", "y"))], 3)

    rows = [{"prompt": p, "completion": c, "label": good} for p, c, good in said]
    path, chat = str(write_jsonl(rows)), ChatFormat(make_tokenizer(), TruncationSettings(max_length=64))
    kept = split_records(DataSettings(train=path)).train
    for method in ("pair", "all"):
        with pytest.raises(TrimtabError, match=r"rows.jsonl:1: .*KTO; 3 desirable, 2 undesirable.*pair_labels"):
            encode_records(kept, chat, method)  # type: ignore[arg-type]
    imitated = encode_records(kept, chat, "first")[1]
    assert (imitated.used, imitated.dropped) == (3, {UNDESIRABLE: 2})
    assert encode_records(kept, chat, "none")[1].used == 5
    splits = split_records(DataSettings(train=path, pair_labels=True))
    assert (len(splits.train), splits.unpaired) == (1, 3)
    assert encode_records(splits.train, chat, "first")[1].used == 1
    write_jsonl(rows[:3])
    with pytest.raises(TrimtabError, match=r"rows.jsonl: pair_labels finds no prompt with both"):
        split_records(DataSettings(train=path, pair_labels=True))


def test_a_label_for_each_completion() -> None:
    with pytest.raises(ValueError, match="1 labels for 2 completions"):
        Record("p", ("a", "b"), labels=(True,))


# ---- folders


def test_folders(tmp_path: Path) -> None:
    """What save_to_disk wrote, with splits and without, and a folder of files that load_dataset reads."""
    rows = datasets.Dataset.from_list([PAIR, PAIR | {"chosen": "Azure."}])
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "both")
    (tmp_path / "files" / "data").mkdir(parents=True)
    rows.to_parquet(tmp_path / "files" / "data" / "test-00000-of-00001.parquet")

    def read(name: str, split: str) -> list[tuple[str, str]]:
        return [(r.origin, r.completions[0]) for r in read_records(str(tmp_path / name), split)]

    assert read("saved", "train") == [("saved/train:1", "Blue."), ("saved/train:2", "Azure.")]
    assert read("both", "test") == [("both/test:1", "Azure.")]
    assert read("files", "test") == [("files/test:1", "Blue."), ("files/test:2", "Azure.")]
    with pytest.raises(TrimtabError, match=r"both: it has no split 'validation'. It has: train, test"):
        read("both", "validation")
    with pytest.raises(TrimtabError, match=r"files: it has no split 'train'. It has: test"):
        read("files", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrimtabError, match=r"empty: a folder without files"):
        read("empty", "train")


def test_a_folder_is_known_by_all_that_is_in_it(tmp_path: Path) -> None:
    """A stage is done again when a file below changes or is renamed; a link back to the folder ends nothing."""
    file = tmp_path / "set" / "data" / "train.jsonl"
    file.parent.mkdir(parents=True)
    (file.parent / "again").symlink_to(tmp_path / "set")
    hashes = set()
    for text in ("a", "b"):
        file.write_text(text)
        hashes.add(hash_source(str(tmp_path / "set"), nested=True))
    file.rename(file.with_name("test.jsonl"))
    hashes.add(hash_source(str(tmp_path / "set"), nested=True))
    assert len(hashes) == 3


# ---- real files


def test_real_files(shared_data: Path, bpe30k_dir: Path) -> None:
    """Rows as ../shared/data/README.md counts them; every row's turns end with the user's."""
    from trimtab.data.chat import load_tokenizer

    folder = shared_data / "data" / "other_formats"
    chat = ChatFormat(load_tokenizer(str(bpe30k_dir)), TruncationSettings(max_length=4096))
    read = {path.stem: read_records(str(path)) for path in sorted(folder.iterdir())}
    assert {name: len(records) for name, records in read.items()} == {
        "hh_prompt_chosen_rejected": 300,
        "kto": 300,
        "sharegpt_dpo": 300,
    }
    for records in read.values():
        assert all(isinstance(r.prompt, tuple) and r.prompt[-1].role == "user" for r in records)
    # LLaMA-Factory's file has 80 rows that open with a system prompt; HH's has 200 of more than one turn.
    assert sum(r.prompt[0].role == "system" for r in read["sharegpt_dpo"]) == 80  # type: ignore[union-attr]
    assert sum(len(r.prompt) > 1 for r in read["hh_prompt_chosen_rejected"]) == 200
    assert sum(r.labels == (True,) for r in read["kto"]) == sum(r.labels == (False,) for r in read["kto"]) == 150
    for name in ("hh_prompt_chosen_rejected", "sharegpt_dpo"):
        _, counts = encode_records(read[name], chat, "pair")
        assert counts.rows == 300
        assert counts.used + sum(counts.dropped.values()) == 300
        assert counts.used >= 290


def test_the_raw_hh_layout_says_the_same(shared_data: Path) -> None:
    """Anthropic's own files repeat prompt and answer in one text: put back together, they read the same."""
    path = shared_data / "data" / "other_formats" / "hh_prompt_chosen_rejected.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows[:100]:
        raw = {side: f"\n\n{row['prompt']}\n\nAssistant: {row[side]}" for side in ("chosen", "rejected")}
        once = to_record(row, "")
        assert to_record(raw, "") == Record(once.prompt, tuple(c.strip() for c in once.completions))


def test_layouts_have_names_of_their_own() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    assert len({layout.columns for layout in LAYOUTS}) == len(LAYOUTS)
