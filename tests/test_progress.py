"""How far a loop is: lines by a clock that a test sets, and as a process whose stderr is a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

import trimtab
from trimtab import notices, progress
from trimtab.progress import Progress, next_line


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_quiet", [False])


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_lines_come_within_five_seconds_and_then_ever_later(capsys: pytest.CaptureFixture[str]) -> None:
    """An item each second for an hour: twenty lines, not 3,600."""
    clock = Clock()
    shown = Progress("work", 3600, clock=clock)
    told = []
    for second in range(1, 3601):
        clock.now = float(second)
        shown.advance()
        shown.tell(clock.now)
        told += [second] if capsys.readouterr().err else []
    assert told[:8] == [3, 6, 12, 24, 48, 96, 192, 384]
    assert [b - a for a, b in pairwise(told[7:])] == [300] * (len(told) - 8)
    assert next_line(3) == 6


def test_after_a_pause_lines_are_not_caught_up_with(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a process that was stopped for an hour."""
    shown = Progress("work", 10, clock=clock)
    clock.now = 3600.0
    for _ in range(5):
        clock.now += 0.1
        shown.tell(clock.now)
    assert capsys.readouterr().err.count("\n") == 1


def test_rate_and_time_left_by_hand(clock: Clock) -> None:
    """2 of 10 rows in 20 s: 8 more take 80 s. 4 rows that were there before count for nothing."""
    shown = Progress("rows", 14, done=4, clock=clock)
    clock.now = 20.0
    assert shown.line(20.0) == "rows: 4/14 rows, 20.0 s so far"
    shown.advance(2)
    assert shown.line(20.0) == "rows: 6/14 rows, 10.0 s a row, 1.3 min left"
    shown.skip(4)
    assert shown.line(20.0) == "rows: 10/14 rows, 10.0 s a row, 40.0 s left"
    shown.advance(4)
    assert shown.line(21.0) == "rows: 14/14 rows, 3.5 s a row, 21.0 s"


def test_items_of_known_sizes(clock: Clock) -> None:
    """The first pass has 1 of 4 answers and 300 of 400 tokens: a third of its time is left, not three times."""
    shown = Progress("perplexity", 4, "answers", work=400, clock=clock)
    shown.advance(1, tokens=300, work=300)
    assert shown.line(30.0) == "perplexity: 1/4 answers, 300 tokens, 10 tok/s, 10.0 s left"


def test_items_of_unknown_sizes(clock: Clock) -> None:
    """64 rows of at most 100 tokens, decoded together, of which half stop at 10: before that only the cap is known;
    then the mean of those that stopped, with the tokens of those that go on, and never beyond the cap."""
    shown = Progress("completions", 64, most=100, clock=clock)
    shown.advance(0, tokens=64 * 5)
    assert shown.seconds_left(5.0) == pytest.approx(95.0)
    assert "at most 1.6 min left" in shown.line(5.0)
    shown.advance(32, tokens=64 * 5)
    # 640 tokens of 32 rows that are done: 20 a row, of which half are drawn.
    assert shown.seconds_left(10.0) == pytest.approx(10.0)
    assert shown.line(10.0).endswith("640 tokens, 64 tok/s, 10.0 s left")
    shown.advance(0, tokens=32 * 85)
    assert shown.seconds_left(95.0) == pytest.approx(95.0 * (64 * 100 - 3360) / 3360)
    shown.advance(32, tokens=32 * 5)
    assert shown.seconds_left(100.0) == 0.0


def test_what_is_inside_shares_the_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("grpo", 3, "steps", clock=clock) as outer:
        outer.advance()
        with Progress("samples", 8, "samples", clock=clock) as inner:
            assert inner.thread is None
            clock.now = 5.0
            inner.advance(4)
            outer.tell(5.0)
    assert capsys.readouterr().err.splitlines()[0] == (
        "grpo: 1/3 steps, 5.0 s a step, 10.0 s left; samples: 4/8 samples, 1.2 s a sample, 5.0 s left"
    )
    assert progress._going_on == []


def test_what_is_over_soon_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("rows", 2) as short:
        short.advance(2)
    assert capsys.readouterr().err == ""
    with Progress("sft", 2, "steps", stays=True) as run:
        run.advance(2)
    assert capsys.readouterr().err.startswith("sft: 2/2 steps, ")
    with pytest.raises(ZeroDivisionError), Progress("sft", 2, stays=True):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""
    assert progress._going_on == []
    notices.be_quiet()
    with Progress("sft", 2, stays=True) as quiet:
        quiet.due = 0.0
        quiet.tell(9.0)
    assert capsys.readouterr().err == ""


PROGRAM = """
import time
from trimtab.progress import Progress
print("go", flush=True)
with Progress("slow", 3) as progress:
    for _ in range(3):
        time.sleep({seconds})
        progress.advance()
"""


def test_a_process_whose_stderr_is_a_pipe_speaks_within_five_seconds() -> None:
    """Though its first item takes longer, and without carriage returns."""
    environment = os.environ | {"PYTHONPATH": str(Path(trimtab.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM.format(seconds=60)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        started = time.monotonic()
        line = running.stderr.readline()
        assert time.monotonic() - started < 5
        assert line.startswith(b"slow: 0/3 rows, 3.")
        assert line.endswith(b" s so far\n")
        assert b"\r" not in line
    finally:
        running.kill()
        running.communicate()


def test_on_a_terminal_it_is_a_bar() -> None:
    import pty

    reader, writer = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(Path(trimtab.__file__).parents[1]), "TERM": "xterm"}
    command = [sys.executable, "-c", PROGRAM.format(seconds=0.3)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=writer, env=environment)
    os.close(writer)
    shown = b""
    try:
        while part := os.read(reader, 4096):
            shown += part
    except OSError:  # Linux: nobody writes any more
        pass
    finally:
        os.close(reader)
        assert running.wait() == 0
    assert b"slow" in shown
    assert b"2/3" in shown
    assert b" s left" in shown
    assert b"Traceback" not in shown
