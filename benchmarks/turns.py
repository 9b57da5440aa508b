"""Two training runs that take their steps in turns, each in a process of its own, so that noise hits both alike.

A side is a command that trains. Before each optimizer step it waits for a line on its standard input; after it, it
writes one line of JSON: seconds of the processor, wall seconds, the loss, and its peak memory since the warmup.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARK = "benchmark: "
"""Begins the lines that a side writes for us, among all that libraries print."""


@dataclass
class Step:
    """What a side says of one optimizer step. peak: bytes, resident; on CUDA those that tensors took."""

    cpu: float
    wall: float
    loss: float
    peak: int


@dataclass
class Side:
    """One of the two."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def start(self, log: Path) -> None:
        """Runs the command up to its first step."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **self.environment}
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
        )
        self._line("waits")

    def step(self) -> bool:
        """One step; False where there is none left."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        told = self._line("step")
        self.steps.append(Step(**told["step"]))
        return "waits" in self._line("waits", "ends")

    def _line(self, *wanted: str) -> dict[str, dict[str, float]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                told: dict[str, dict[str, float]] = json.loads(line.removeprefix(MARK))
                if told.keys() & set(wanted):
                    return told
        raise SystemExit(f"{self.name} ended with {self.process.wait()}; its log says why.")


def in_turns(sides: Sequence[Side], folder: Path) -> None:
    """Runs all sides to their ends, a step of each at a time."""
    for side in sides:
        side.start(folder / f"{side.name}.log")
    going = list(sides)
    while going:
        going = [side for side in going if side.step()]
    for side in sides:
        side.process.stdin.close()  # type: ignore[union-attr]
        side.process.wait()


# ---- on the side of a run


class Gate:
    """What a training process does before and after each step. It computes on CUDA where it sees a device."""

    def __init__(self, warmup: int) -> None:
        import torch  # the process that holds the turns needs none

        self.warmup, self.done = warmup, 0
        self.cuda = torch.cuda if torch.cuda.is_available() else None
        self.out = os.fdopen(os.dup(1), "w", buffering=1)  # libraries may take the standard output away

    def before(self) -> None:
        """Waits for our turn."""
        self.out.write(MARK + json.dumps({"waits": {}}) + "\n")
        sys.stdin.readline()
        if self.done == self.warmup:
            Path("/proc/self/clear_refs").write_text("5")
            if self.cuda is not None:
                self.cuda.reset_peak_memory_stats()
        if self.cuda is not None:
            self.cuda.synchronize()
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def after(self, loss: float) -> None:
        """Says what the step took."""
        if self.cuda is not None:
            self.cuda.synchronize()
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        if self.cuda is not None:
            peak = self.cuda.max_memory_allocated()
        self.done += 1
        self.out.write(MARK + json.dumps({"step": {"cpu": cpu, "wall": wall, "loss": loss, "peak": peak}}) + "\n")

    def end(self) -> None:
        """After the last step."""
        self.out.write(MARK + json.dumps({"ends": {}}) + "\n")
