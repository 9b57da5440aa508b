"""What is said, how it stands in a log file, and what is kept for the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab import notices
from trimtab.notices import collected, say, speaking_of, warn


@pytest.fixture(autouse=True)
def _as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_quiet", [False])


def test_a_message_is_one_line_and_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """However long; brackets and :emoji: of a file's name stay, and nothing is coloured in a file."""
    text = "[bold]dog[/bold] :dog: " + "word " * 60 + "end"
    say(text)
    warn(text)
    assert capsys.readouterr().err == f"{text}\nwarning: {text}\n"


def test_what_lines_are_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said, but not kept: a report names the seed itself."""
    with collected() as run, speaking_of("seed 1"):
        say("sft: 3/10")
        warn("no score")
    say("done")
    assert capsys.readouterr().err == "seed 1: sft: 3/10\nwarning: seed 1: no score\ndone\n"
    assert run.lines == ["no score"]


def test_what_was_said_around_a_run_is_not_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    with collected():
        warn("of all")
        with collected() as one:
            warn("of all")
        with collected() as other:
            warn("of all")
    assert one.lines == other.lines == ["of all"]
    assert capsys.readouterr().err == "warning: of all\n"


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    notices.be_quiet()
    say("3 of 10")
    warn("no score")
    assert capsys.readouterr().err == "warning: no score\n"


def test_warnings_belong_to_the_innermost_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said once; of one subject the last is kept; a run that goes on has those from before."""
    file = tmp_path / "warnings.json"
    with collected() as outer:
        warn("outside")
        with collected(file) as inner:
            for _ in range(3):
                warn("inside")
            warn("1 score is missing", about="missing")
            warn("2 scores are missing", about="missing")
        warn("outside again")
    assert inner.lines == ["inside", "2 scores are missing"]
    assert outer.lines == ["outside", "outside again"]
    assert capsys.readouterr().err.count("warning: inside") == 1
    assert list(json.loads(file.read_text()).values()) == inner.lines

    with collected(file, resumed=True) as later:
        warn("3 scores are missing", about="missing")
    assert later.lines == ["inside", "3 scores are missing"]
    with collected(file) as anew:
        pass
    assert anew.lines == []
