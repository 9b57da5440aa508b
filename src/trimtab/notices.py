"""What a run says while it goes on, and what it must not forget: warnings are said when they arise and kept for
done.json, model cards and reports. For every room.

    with collected(folder / "warnings.json"):
        …
        warn("3 of 8 samples of this step have no score", about="missing scores")
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from trimtab.files import write_text

FIRST_PROCESS = os.environ.get("RANK", "0") == "0"
console = Console(stderr=True, quiet=not FIRST_PROCESS, soft_wrap=True, markup=False, emoji=False, highlight=False)
"""Of several processes the first speaks. A message is one line, however wide the terminal, and its brackets are
its own: it may be read from a log file."""


class Warnings:
    """Of one run. file: where they are kept, so that a run that goes on after a kill still has them."""

    def __init__(self, file: Path | None = None, resumed: bool = False) -> None:
        self.file = file
        self.by_subject: dict[str, str] = {}
        if resumed and file is not None and file.is_file():
            self.by_subject = _read(file)
        self.said: set[str] = set()

    @property
    def lines(self) -> list[str]:
        """The warnings kept so far, in the order of their subjects."""
        return list(self.by_subject.values())

    def add(self, line: str, about: str) -> None:
        """Keeps a warning, in place of an earlier one about that subject; writes the file, where there is one."""
        self.by_subject[about] = line
        if self.file is not None and FIRST_PROCESS:
            write_text(self.file, json.dumps(self.by_subject, ensure_ascii=False, indent=2) + "\n")


def _read(file: Path) -> dict[str, str]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return {str(about): str(line) for about, line in stored.items()}
    except (OSError, ValueError, AttributeError):
        console.print(f"warning: {file}: is damaged; earlier warnings of this run are lost", style="yellow")
        return {}


_collecting: list[Warnings] = [Warnings()]
"""The innermost last."""


_about: list[str] = []


@contextmanager
def speaking_of(subject: str) -> Iterator[None]:
    """Every line that is said inside begins with what it is about, such as a training seed."""
    _about.append(subject)
    try:
        yield
    finally:
        _about.pop()


def in_context(line: str) -> str:
    """The line behind what is being worked on, as in "seed 1: dpo: …"."""
    return ": ".join([*_about, line])


def say(line: str) -> None:
    """A line of what is going on; --quiet leaves it out."""
    if not _quiet[0]:
        console.print(in_context(line))


_quiet = [False]


def be_quiet(quiet: bool = True) -> None:
    """From now on warnings only."""
    _quiet[0] = quiet


def hush(debug: bool, quiet: bool) -> None:
    """Libraries speak only when asked to; with `quiet` trimtab gives results, warnings and errors only."""
    be_quiet(quiet)
    if debug:
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def is_quiet() -> bool:
    """Whether only results, warnings and errors are said."""
    return _quiet[0]


@contextmanager
def unsaid() -> Iterator[None]:
    """Inside, only warnings are said: what goes on was said already, elsewhere."""
    before = is_quiet()
    be_quiet()
    try:
        yield
    finally:
        be_quiet(before)


def warn(line: str, about: str = "", aloud: bool = True) -> None:
    """Says a warning, once in a run, and keeps it with the run that is going on.

    about: its subject; a later warning on the same subject takes its place among those that are kept, as one with
    a higher count does. Without it the line is its own subject. aloud: without it the line is only kept.
    """
    run = _collecting[-1]
    if aloud and line not in run.said:
        run.said.add(line)
        console.print(f"warning: {in_context(line)}", style="yellow")
    run.add(line, about or line)


def current_warnings() -> dict[str, str]:
    """The warnings that are kept with what is going on, by their subjects."""
    return dict(_collecting[-1].by_subject)


def keep_said(by_subject: Mapping[str, str]) -> None:
    """Keeps the warnings that another process of this run has said: they are not said a second time."""
    for about, line in by_subject.items():
        _collecting[-1].said.add(line)
        warn(line, about)


@contextmanager
def collected(file: Path | None = None, resumed: bool = False) -> Iterator[Warnings]:
    """Gathers the warnings of what runs inside. resumed: with those that `file` has from before."""
    run = Warnings(file, resumed)
    if len(_collecting) > 1:
        run.said |= _collecting[-1].said  # kept here too, and not said a second time
    _collecting.append(run)
    try:
        yield run
    finally:
        _collecting.remove(run)
