"""What is said of several processes at work: their last lines, when lines are due, and every warning at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.study.board import Board


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def add(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


def test_lines_come_at_growing_intervals_and_warnings_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, sft, base = Clock(), tmp_path / "sft.log", tmp_path / "base.log"
    add(sft, "sft: 9/9 steps\nwarning: of an earlier run\n")
    with Board(5, clock) as board:
        board.begun("sft", sft)
        board.begun("answers of base", base)
        add(sft, "sft: 1/8 steps\nwarning: 3 rows were cut\nsft: 2/8 st")
        board.look()
        assert capsys.readouterr().err == "warning: 3 rows were cut\n"
        clock.now += 4
        board.look()
        assert capsys.readouterr().err == "sft: 1/8 steps\nanswers of base: 4.0 s so far\n"
        add(sft, "eps\n")
        add(base, "base: 3/12 prompts\n\n")
        board.look()
        assert capsys.readouterr().err == "", "nothing is due yet"
        clock.now += 3
        board.look()
        assert capsys.readouterr().err == "sft: 2/8 steps\nanswers of base: base: 3/12 prompts\n"
        clock.now += 3
        board.look()
        assert capsys.readouterr().err == ""
        add(sft, "warning: the last one\n")
        clock.now += 50
        board.ended("sft")
        assert capsys.readouterr().err.endswith("sft: done, 1.0 min (1/5 tasks done)\n")
        board.ended("answers of base", "failed")
        assert capsys.readouterr().err == "answers of base: failed, 1.0 min (1/5 tasks done)\n"


def test_a_log_that_is_not_there_or_of_other_bytes_is_no_matter(tmp_path: Path) -> None:
    clock, log = Clock(), tmp_path / "x.log"
    with Board(1, clock) as board:
        board.begun("x", log)
        board.look()
        log.write_bytes(b"\xff\xfe half\n" + b"x" * 200_000 + b"\nlast\n")
        board.look()
        assert board.rows["x"].last == "last"


def test_a_stage_of_a_seed_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock, log = Clock(), tmp_path / "sft.log"
    with Board(1, clock) as board:
        board.begun("seed 1: sft", log)
        add(log, "sft: 1/8 steps\n")
        clock.now += 4
        board.look()
        assert capsys.readouterr().err == "seed 1: sft: 1/8 steps\n"
        assert next(iter(board._table().columns[2].cells)) == "1/8 steps"
