"""Prompts with instructions that a program checks: none conflict, and the same seed gives the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import combinations as pairs
from pathlib import Path
from typing import Any

import pytest

from trimtab.data.message import Message
from trimtab.data.records import Record, read_records
from trimtab.errors import TrimtabError
from trimtab.instructions.checks import check_rows, instructions_of
from trimtab.instructions.mended import checkers, conflicts
from trimtab.instructions.prompts import LEFT_OUT, combinations, draw, main, rows_of, with_instructions

KINDS = [kind for kind in sorted(checkers()) if kind not in LEFT_OUT]
ASKED = [Record(f"Name {i}", ()) for i in range(40)]


def test_each_row_can_be_checked_and_says_what_is_asked(tmp_path: Path) -> None:
    rows = rows_of(ASKED, 300, 0, KINDS)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = read_records(str(file))
    assert check_rows(records) == 0
    counts = [len(row["instruction_id_list"]) for row in rows]
    assert set(counts) == {1, 2, 3}
    assert {kind for row in rows for kind in row["instruction_id_list"]} == set(KINDS)
    for i, (row, record) in enumerate(zip(rows, records, strict=True)):
        texts = [instruction.text.strip() for instruction in instructions_of(record.columns)]
        assert row["prompt"] == f"Name {i % 40}\n\n" + "\n".join(texts)
        assert not any(a in conflicts()[b] for a, b in pairs(row["instruction_id_list"], 2))
        cased = {"change_case:english_lowercase", "change_case:english_capital"} & set(row["instruction_id_list"])
        assert not cased or "detectable_format:multiple_sections" not in row["instruction_id_list"]
        for given in row["kwargs"]:
            assert (given.get("num_sentences"), given.get("relation")) != (1, "less than")
    assert len({row["prompt"] for row in rows}) == 300, "prompts that come again are asked otherwise"


def test_the_same_seed_gives_the_same_and_leaves_the_generator_alone() -> None:
    before = random.getstate()
    rows = rows_of(ASKED, 12, 3, KINDS)
    assert random.getstate() == before
    random.seed(99)
    assert rows_of(ASKED, 12, 3, KINDS) == rows
    assert rows_of(ASKED, 12, 4, KINDS) != rows
    assert rows_of(ASKED, 20, 3, KINDS)[:12] == rows, "more rows leave the first what they were"


def test_combinations_that_are_tested_are_not_drawn(write_jsonl: Callable[..., Path]) -> None:
    few = ["punctuation:no_comma", "startend:quotation", "detectable_format:title"]
    tested = str(
        write_jsonl(
            [{"prompt": "p", "instruction_id_list": few[:1]}, {"prompt": "q", "instruction_id_list": few[1::-1]}]
        )
    )
    excluded = combinations(tested, None)
    assert excluded == {frozenset(few[:1]), frozenset(few[:2])}
    drawn = {draw(str(i), few, excluded=excluded).kinds for i in range(60)}
    # Quotation and title conflict, so that these are all that is left.
    assert drawn == {frozenset(few[1:2]), frozenset(few[2:]), frozenset(few[::2])}
    with pytest.raises(TrimtabError, match="no combination of these kinds is left"):
        draw("0", few[:1], excluded=excluded)


def test_a_share_excludes_what_a_studys_split_tests(write_jsonl: Callable[..., Path]) -> None:
    rows = [
        {"prompt": f"p{i}", "instruction_id_list": [KINDS[i % 10]], "kwargs": [given(KINDS[i % 10])]}
        for i in range(30)
    ]
    found = combinations(str(write_jsonl(rows)), 0.3)
    assert len(found) == 3
    assert len(combinations(str(write_jsonl(rows)), None)) == 10


def given(kind: str) -> dict[str, Any]:
    return dict(draw("0", [kind], most=1).arguments[0])


def test_a_conversation_is_asked_at_its_end() -> None:
    talk = (Message("system", "Be kind."), Message("user", "Why? "))
    assert with_instructions(talk, "No commas.") == (talk[0], Message("user", "Why?\n\nNo commas."))
    assert with_instructions((*talk, Message("tool", "5")), "x") is None
    (row,) = rows_of([Record(talk, ())], 1, 0, KINDS)
    assert row["prompt"][0] == {"role": "system", "content": "Be kind."}
    with pytest.raises(TrimtabError, match="no prompt ends with a user's turn"):
        rows_of([Record((*talk, Message("tool", "5")), ())], 1, 0, KINDS)


def test_the_command_writes_a_file(
    write_jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_jsonl([{"prompt": "Name one", "chosen": "a", "rejected": "b"}]))
    main(data, tmp_path / "out.jsonl", rows=3)
    assert len(read_records(str(tmp_path / "out.jsonl"))) == 3
    assert "out.jsonl: 3 prompts with" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no such"):
        main("no/such.jsonl", tmp_path / "out.jsonl")
