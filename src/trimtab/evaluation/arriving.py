"""Completions on the disk as they come, so that a run that was killed goes on from those that it has.

FOLDER/generations.jsonl    a line for each that is whole, in the order in which they came; in that of the rows
                            once all are there
       generating.json      what they are of, and how: there until they are complete
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.evaluation.completeness import as_read, only_say
from trimtab.evaluation.generate import Generated
from trimtab.evaluation.outputs import Generation, read_generation
from trimtab.files import read_json, write_json
from trimtab.json_types import JsonValue
from trimtab.late import torch

ROWS, MARK = "generations.jsonl", "generating.json"
SECONDS, THREADS, COMPUTED = "seconds", "threads", "computed_in"
"""In the mark beside the inputs: what earlier runs took; on how many threads all runs compute, and in which
precision. Rounding depends on these, and both may be chosen by how a machine is at the time."""
OF_RUNS = (SECONDS, THREADS, COMPUTED)


class ArrivingRows:
    """The completions of a folder that is worked on.

    inputs: what they depend on. precision: that of a run that begins; one that goes on has the first one's. kept:
    completions of an earlier run of the same inputs, by the places of their rows. seconds: what earlier runs took.
    """

    def __init__(
        self, folder: Path, inputs: Mapping[str, JsonValue], rows: Sequence[Record], precision: str
    ) -> None:
        self.file, self.mark, self.rows, self.inputs = folder / ROWS, folder / MARK, rows, inputs
        self.kept: dict[int, Generated] = {}
        self.seconds, self.threads, self.precision = 0.0, torch.get_num_threads(), precision
        self.stream: int | None = None
        self.whole = 0
        stored = _stored(self.mark, inputs)
        if stored is not None:
            self.kept, self.whole = _read(self.file, rows)
            self.threads, self.precision = int(stored[THREADS]), str(stored[COMPUTED])
            self.seconds = float(stored[SECONDS])
            if self.kept:
                self.seconds += max(0.0, self.file.stat().st_mtime - self.mark.stat().st_mtime)

    def __enter__(self) -> Self:
        self.before = torch.get_num_threads()
        if self.threads != self.before:
            torch.set_num_threads(self.threads)
        if self.kept:
            os.truncate(self.file, self.whole)  # without what a kill cut
            self.stream = self._open()
        else:
            self.mark.unlink(missing_ok=True)
            self.file.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stream is not None:
            os.close(self.stream)
        if self.threads != self.before:
            torch.set_num_threads(self.before)

    def _open(self) -> int:
        of_runs = {SECONDS: self.seconds, THREADS: self.threads, COMPUTED: self.precision}
        write_json(self.mark, {**self.inputs, **of_runs})
        return os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def add(self, place: int, generated: Generated) -> None:
        """Writes one more, by a single call: it is there whole, or a last line without its end."""
        if self.stream is None:
            self.stream = self._open()
        data = (self.row(place, generated).model_dump_json() + "\n").encode("utf-8")
        if os.write(self.stream, data) != len(data):
            raise OSError(f"{self.file}: a row was not written whole")

    def row(self, place: int, generated: Generated) -> Generation:
        """As it stands in the file."""
        return Generation(
            id=str(place),
            prompt=self.rows[place].prompt_text,
            completion=generated.text,
            tokens=generated.tokens,
            terminated=generated.terminated,
        )


def arrived(folder: Path) -> None:
    """All are there: the mark of those on their way goes."""
    (folder / MARK).unlink(missing_ok=True)


def _stored(mark: Path, inputs: Mapping[str, JsonValue]) -> dict[str, JsonValue] | None:
    """What the mark says, where it is of these inputs."""
    if not mark.is_file():
        return None
    try:
        stored = read_json(mark, "The completions are made anew.")
    except TrimtabError as error:
        only_say(str(error))
        return None
    own = {name: value for name, value in stored.items() if name not in OF_RUNS}
    return stored if own == as_read(inputs) and set(OF_RUNS) <= stored.keys() else None


def _read(file: Path, rows: Sequence[Record]) -> tuple[dict[int, Generated], int]:
    """The completions that are whole, by place, and how many bytes they take. What stands behind a line that cannot
    be read is made anew, which is said unless it is the last."""
    kept: dict[int, Generated] = {}
    whole = 0
    content = file.read_bytes() if file.is_file() else b""
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found = read_generation(line, f"{file}:{number}")
            place = int(found.id)
            if not 0 <= place < len(rows) or found.prompt != rows[place].prompt_text:
                raise TrimtabError(f"{file}:{number}: is of another row.")
        except (TrimtabError, ValueError) as error:
            only_say(f"{error} It and what comes behind it is made anew.")
            break
        kept[place] = Generated(found.completion, found.tokens, found.terminated)
        whole += len(line) + 1
    return kept, whole
