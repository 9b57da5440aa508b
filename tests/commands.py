"""Commands as `trimtab` runs them, each in a fork of one process that has imported everything: a second instead of
ten. As a program it is that process: a job a line from stdin, and of each its process id and exit code to stdout.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 400
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Done:
    """What a command left. returncode: as subprocess has it, -9 of one that was killed."""

    returncode: int
    stdout: str
    stderr: str


class Commands:
    """Runs commands one after the other. folder: for what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str, **how: Any) -> Done:
        """A command and its end; `how` as `start` takes it."""
        return self.start(*words, **how).wait()

    def in_turn(self, jobs: Sequence[tuple[str, int, Sequence[str]]]) -> list[Done]:
        """Commands with the moments at which they end."""
        return [self.run(*words, moment=moment, count=count) for moment, count, words in jobs]

    def start(
        self,
        *words: str,
        moment: str = "none",
        count: int = 1,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """Begins a command. moment, count: where it kills itself, see training/killed.py. cwd, environment: this
        process's where they aren't given."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        self.count += 1
        out = self.folder / str(self.count)
        out.mkdir(parents=True)
        job = {
            "words": [str(word) for word in words],
            "moment": moment,
            "count": count,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(environment or os.environ),
            "out": str(out),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return Running(self, out, self.answer())

    def answer(self) -> int:
        """The next number that the process prints."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT)
        assert ready, f"no answer within {TIMEOUT} s"
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process that commands are forked from."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)


class Running:
    """A command that goes on."""

    def __init__(self, commands: Commands, out: Path, pid: int) -> None:
        self.commands, self.out, self.pid = commands, out, pid

    def wait(self) -> Done:
        """Its end; of one that takes too long, a failure."""
        try:
            code = self.commands.answer()
        except AssertionError:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.commands.answer()
            raise
        return Done(code, *((self.out / name).read_text() for name in ("stdout", "stderr")))


# ---- in the process that commands are forked from


def serve() -> None:
    from trimtab.notices import hush

    hush(debug=False, quiet=False)  # what `trimtab` does before a library is loaded

    import trimtab.study.run  # noqa: F401  (what the commands import, before the first fork)
    from training import killed

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line), killed.arm)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


def _child(job: dict[str, Any], arm: Any) -> None:
    import torch

    from trimtab import cli

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(job["out"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(job["environment"])
    if threads := os.environ.get("OMP_NUM_THREADS"):  # torch has read another
        torch.set_num_threads(int(threads))
    os.chdir(job["cwd"])
    sys.argv = ["trimtab", *job["words"]]
    code: Any = 0
    try:
        arm(job["moment"], job["count"])
        cli.main()
    except SystemExit as left:
        code = left.code
    except BaseException:  # what the interpreter would print
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()
