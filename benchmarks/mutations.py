"""Plants faults in the code, one at a time, and says which of them the tests see.

    python benchmarks/mutations.py                all of mutations.toml: a few minutes, a table in Markdown
    python benchmarks/mutations.py KL dropout     those whose part, fault or file holds one of the words

A fault replaces a text that occurs once in one file, in a copy of the tree that is thrown away, and the few tests
that are named for it run with pytest -x -q: killed is what one fails on, survived what all of them pass. The same
tests run first without any fault, since a test that fails anyway, or is skipped, sees nothing. Exit code 1 for a
survivor, 2 where a fault's text has gone stale or its tests cannot be run.

Each run is a fork of a process that has imported the libraries already: a second instead of ten.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "src/trimtab"
LIBRARIES = (
    "pytest", "hypothesis", "torch", "accelerate", "datasets", "peft", "pydantic", "scipy.stats", "transformers",
    "transformers.models.auto.modeling_auto", "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.gemma2.modeling_gemma2", "transformers.models.gpt2.modeling_gpt2", "trl",
)  # fmt: skip
"""What tests import, before the first fork; trimtab itself never."""
LIMIT = 300
"""Seconds that the tests of a fault may take, since one that runs for ever is seen too."""


class StaleError(Exception):
    """A fault that cannot be planted any more."""


@dataclass(frozen=True)
class Mutation:
    """file: under src/trimtab. old: occurs once in it. tests: under tests, as pytest names them."""

    part: str
    fault: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, root: Path) -> str:
        """The file's text with the fault in it. StaleError unless it fits in exactly one place, on one line."""
        path = root / PACKAGE / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (count := text.count(self.old)) != 1:
            raise StaleError(f"{self.file}: {self.old!r} is there {count} times, and must be once ({self.fault})")
        if "\n" in self.old + self.new or self.old == self.new:
            raise StaleError(f"{self.file}: not a change of one line ({self.fault})")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """code: pytest's, or None where the time ran out. failed: the tests that did, at most one with -x."""

    code: int | None
    failed: tuple[str, ...]
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        return {0: "SURVIVED", 1: "killed", None: "killed"}.get(self.code, "ERROR")


def mutations(file: Path = ROOT / "benchmarks" / "mutations.toml") -> list[Mutation]:
    entries = tomllib.loads(file.read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def run(tree: Path, tests: Sequence[str], limit: float = math.inf) -> Outcome:
    """The tests of a tree, in a fork of this process. limit: in seconds."""
    shutil.rmtree(tree / ".hypothesis", ignore_errors=True)  # no example of an earlier fault
    started, log = time.monotonic(), tree / "output.txt"
    child = os.fork()
    if child == 0:
        test(tree, tests, log)
    code: int | None = None
    while time.monotonic() - started < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.05)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    output = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    failed = tuple(re.findall(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", output, re.MULTILINE))
    return Outcome(code, failed, time.monotonic() - started, output)


def test(tree: Path, tests: Sequence[str], log: Path) -> NoReturn:
    """In the fork: this tree's package and no other, and nothing compiled kept, which could outlive its source."""
    os.setsid()
    where = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(where, 1)
    os.dup2(where, 2)
    os.chdir(tree)
    sys.dont_write_bytecode = True
    home = os.pathsep.join(filter(None, [str(tree / "src"), os.environ.get("PYTHONPATH")]))
    os.environ |= {"PYTHONPATH": home, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    # Without this script's own folder, in which a test's module of the same name would be sought.
    sys.path[:] = [str(tree / "src"), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]
    hypothesis = importlib.import_module("hypothesis")
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # a failure is enough: none is made small
    hypothesis.settings.register_profile("fault", phases=phases)
    hypothesis.settings.load_profile("fault")
    pytest = importlib.import_module("pytest")
    options = ["-x", "--tb=line", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not vllm and not trackio"]
    code = int(pytest.main([*options, *(f"tests/{name}" for name in tests)]))
    found = getattr(sys.modules.get("trimtab"), "__file__", None) or ""
    sys.stdout.flush()
    os._exit(code if Path(found).is_relative_to(tree) else 99)


def row(mutation: Mutation, outcome: Outcome) -> str:
    seen = ", ".join(f"`{name}`" for name in outcome.failed) or ("time ran out" if outcome.code is None else "–")
    cells = mutation.part, mutation.fault, f"`{mutation.file}`", outcome.verdict, seen, f"{outcome.seconds:.0f}"
    return "| " + " | ".join(cells) + " |"


def main(words: Sequence[str]) -> int:
    chosen = [m for m in mutations() if not words or any(w in f"{m.part} {m.fault} {m.file}" for w in words)]
    if not chosen:
        print(f"{__doc__}\nno fault has {' or '.join(words)} in its part, name or file", file=sys.stderr)
        return 2
    for library in LIBRARIES:
        importlib.import_module(library)
    assert "trimtab" not in sys.modules, "a fork must import it from its own tree"
    os.environ.setdefault("TRIMTAB_SHARED", str(ROOT.parent / "shared"))
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        sound = run(tree, list(dict.fromkeys(name for m in chosen for name in m.tests)))
        if sound.code != 0 or "skipped" in sound.output.splitlines()[-1]:
            print(f"{sound.output}\nthe tests do not all pass without a fault", file=sys.stderr)
            return 2
        print(f"without a fault: {sound.output.splitlines()[-1].strip()}", file=sys.stderr)
        for mutation in chosen:
            path = tree / PACKAGE / mutation.file
            try:
                faulty = mutation.planted(tree)
            except StaleError as error:
                outcome = Outcome(2, (), 0.0, str(error))
            else:
                whole = path.read_text(encoding="utf-8")
                path.write_text(faulty, encoding="utf-8")
                outcome = run(tree, mutation.tests, LIMIT)
                path.write_text(whole, encoding="utf-8")
            rows.append(row(mutation, outcome))
            verdicts.append(outcome.verdict)
            print(rows[-1], file=sys.stderr, flush=True)
            if outcome.verdict == "ERROR":
                print(outcome.output[-2000:], file=sys.stderr)
    print("| part | fault | file | | seen by | s |\n|---|---|---|---|---|---:|")
    print("\n".join(rows))
    print(f"\n{verdicts.count('killed')} of {len(verdicts)} killed.")
    return 2 if "ERROR" in verdicts else int("SURVIVED" in verdicts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
