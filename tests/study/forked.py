"""Runs commands as `trimtab` would, each in a fork of one process that has imported everything: a second instead of
ten. Reads a JSON list of {words, cwd, out} from stdin; each writes out/stdout, out/stderr and out/code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import trimtab.study.run  # noqa: F401  (what the commands import, before the first fork)
from trimtab import cli


def child(job: dict[str, Any]) -> None:
    os.chdir(job["cwd"])
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(job["out"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["trimtab", *job["words"]]
    code: Any = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code
    except BaseException:  # what the interpreter would print
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    (Path(job["out"]) / "code").write_text(str(code if isinstance(code, int) else int(code is not None)))
    os._exit(0)


def main() -> None:
    for job in json.load(sys.stdin):
        Path(job["out"]).mkdir(parents=True)
        process = os.fork()
        if process == 0:
            child(job)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main()
