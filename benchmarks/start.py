"""How long a command takes to begin: `python -m benchmarks.start [--peer build:CHECKOUT]`.

Each part is a process of its own: a wrong setting, or rows or a model that are not there, as that is told;
`trimtab --help`; `import trimtab`; all that comes before the first optimizer step of the sandbox's small model.
With a peer, another checkout with a .venv of its own, both sides take turns. Medians; seconds by the clock and of
the CPU, and the largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HERE = Path(__file__).parents[1]
COMMAND = "import sys; from trimtab.cli import main; sys.argv[0] = 'trimtab'; main()"
UNTIL_FIRST_STEP = """
import os, sys
import trimtab.cli
from trimtab.methods.sft import SFT
def first_step(self, groups, step):
    print('first step', flush=True)
    os._exit(0)
SFT.prepare = first_step
sys.argv[0] = 'trimtab'
trimtab.cli.main()
"""
"""The command as it is, but that the process ends where a step of SFT begins."""
ROWS = [{"prompt": f"Name a colour, number {i}.", "chosen": "Blue.", "rejected": "Loud."} for i in range(8)]


class Part(NamedTuple):
    """A process: its program, its words, and what its output must hold, so that both sides did the same."""

    program: str
    words: tuple[str, ...]
    says: str


class Taken(NamedTuple):
    """What a process took: seconds by the clock and of the CPU, and its largest resident memory in MiB."""

    wall: float
    cpu: float
    mib: float


def parts(folder: Path) -> dict[str, Part]:
    """What is timed. folder: holds rows.jsonl. Each run writes to a new folder: none goes on with another's."""
    stage = ("--model", "sandbox:base", "--data", str(folder / "rows.jsonl"), "--out", "out")
    return {
        "wrong setting": Part(COMMAND, ("dpo", *stage, "--set", "learning_rat=1"), "Did you mean 'learning_rate'?"),
        "wrong setting of the data": Part(COMMAND, ("dpo", *stage, "--set", "data.max_lenght=1"), "'max_length'?"),
        "wrong setting of a recipe": Part(
            COMMAND, ("study", "quickstart", "--set", "dpo.beta=-1"), "beta: Input should be greater than 0"
        ),
        "rows that are not there": Part(COMMAND, ("dpo", *stage, "--data", "none.jsonl"), "no such file"),
        "model that is not there": Part(COMMAND, ("dpo", *stage, "--model", "./none"), "no such folder"),
        "recipe that is not there": Part(COMMAND, ("study", str(folder / "none.yaml")), "no such file"),
        "--help": Part(COMMAND, ("--help",), "Align small language models"),
        "import trimtab": Part("import trimtab; print('done')", (), "done"),
        "first step": Part(UNTIL_FIRST_STEP, ("sft", *stage), "first step"),
    }


def run(checkout: Path, part: Part) -> Taken:
    """One process of a checkout. Ends the benchmark where it does not say what it should."""
    command = [str(checkout / ".venv/bin/python"), "-c", part.program, *part.words]
    with TemporaryDirectory() as passing, (Path(passing) / "said").open("w+") as said:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=passing, stdout=said, stderr=subprocess.STDOUT)
        _, _, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        said.seek(0)
        text = said.read()
    if part.says not in text:
        sys.exit(f"{checkout}: {' '.join(part.words)}: expected {part.says!r}, found:\n{text}")
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def median(runs: list[Taken]) -> Taken:
    """Of each number by itself."""
    return Taken(*map(statistics.median, zip(*runs, strict=True)))


def timed(checkouts: dict[str, Path], repeats: int) -> dict[str, dict[str, Taken]]:
    """Part → side → medians, the sides in turns."""
    medians: dict[str, dict[str, Taken]] = {}
    with TemporaryDirectory() as folder:
        (Path(folder) / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        for name, part in parts(Path(folder)).items():
            taken: dict[str, list[Taken]] = {side: [] for side in checkouts}
            for _ in range(repeats):
                for side, checkout in checkouts.items():
                    taken[side].append(run(checkout, part))
            medians[name] = {side: median(runs) for side, runs in taken.items()}
            for side, (wall, cpu, mib) in medians[name].items():
                print(f"{name:26} {side:5} wall {wall:6.2f} s   CPU {cpu:6.2f} s   {mib:5.0f} MiB", flush=True)
    return medians


def main() -> None:
    """Times, prints a line for each part and side, and a JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="build:CHECKOUT, another checkout of trimtab with its .venv")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"ours": HERE}
    if options.peer:
        checkouts["peer"] = Path(options.peer.removeprefix("build:")).resolve()
    medians = timed(checkouts, options.repeats)
    result: dict[str, object] = {}
    for name, sides in medians.items():
        ours, peer = sides["ours"], sides.get("peer")
        result[name] = {
            "ours": round(ours.cpu, 3),
            "peer": peer and round(peer.cpu, 3),
            "ratio": peer and round(peer.cpu / ours.cpu, 2),
            "wall": {side: round(taken.wall, 3) for side, taken in sides.items()},
            "peak_mib": {side: round(taken.mib) for side, taken in sides.items()},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
