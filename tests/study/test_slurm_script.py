"""docs/scale/slurm.sh with stand-ins for the commands that it calls: what it hands on, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "scale"

STAND_INS = {
    "scontrol": "echo node-1; echo node-2",
    "srun": 'shift; exec "$@"',  # without its own option
    "ray": 'echo "ray $*" >> "$HERE/called"; [ "$1" = stop ] || eval "$SYMMETRIC_RUN"',
    "trimtab": 'echo "trimtab $*" >> "$HERE/called"',
}


def started(folder: Path, symmetric_run: str) -> subprocess.Popen[str]:
    """slurm.sh with stand-ins for Slurm's, Ray's and trimtab's commands, which write down how they were called.
    symmetric_run: what Ray's does."""
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    given = {
        "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16", "HERE": str(folder),
        "SYMMETRIC_RUN": symmetric_run,
    }  # fmt: skip
    words = ["bash", str(FOLDER / "slurm.sh"), "mine.yaml", str(folder / "runs" / "out"), "--seeds", "0,1,2"]
    return subprocess.Popen(words, env=os.environ | given, text=True, start_new_session=True)


def called(folder: Path) -> list[str]:
    file = folder / "called"
    return file.read_text().splitlines() if file.exists() else []


RUNS = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
"""As symmetric-run on the first machine."""


def test_slurm_sh_passes_on_what_it_is_given(tmp_path: Path) -> None:
    assert started(tmp_path, RUNS).wait(30) == 0
    stop, ray, trimtab = called(tmp_path)
    assert stop == "ray stop --force"
    assert ray.startswith("ray symmetric-run --address node-1:6379 --min-nodes 2 --num-cpus 16 -- ")
    assert trimtab == f"trimtab study mine.yaml --out {tmp_path}/runs/out --ray auto --seeds 0,1,2"
    assert list((tmp_path / "runs").iterdir()) == []
    asked = [line for line in (FOLDER / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert len(asked) > 5
    assert all(re.match(r"#SBATCH --[a-z-]+(=\S+)?$", line) for line in asked)


@pytest.mark.parametrize("symmetric_run", ["true", "exit 3"])
def test_a_job_fails_where_the_study_did_not_run(symmetric_run: str, tmp_path: Path) -> None:
    """symmetric-run of Ray 2.60 ends with 0 where it could not start Ray."""
    assert started(tmp_path, symmetric_run).wait(30) != 0
    assert not [line for line in called(tmp_path) if line.startswith("trimtab")]


def test_a_task_that_slurm_ends_stops_its_ray(tmp_path: Path) -> None:
    """Slurm sends SIGTERM to all that it knows of a task; Ray's own processes are not among them."""
    job = started(tmp_path, "sleep 60")
    for _ in range(300):
        if len(called(tmp_path)) == 2:
            break
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(30) != 0
    for _ in range(100):
        if len(called(tmp_path)) == 3:
            break
        time.sleep(0.1)
    assert called(tmp_path)[2] == "ray stop --force"
