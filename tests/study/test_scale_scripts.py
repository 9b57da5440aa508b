"""The scripts of docs/scale with stand-ins for the commands that they call: what they hand on, and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docs" / "scale"

STAND_INS = {
    "scontrol": "echo node-1; echo node-2",
    "srun": 'echo "srun $1 $2" >> "$HERE/called"; shift 2; exec "$@"',
    "ray": 'echo "ray $*" >> "$HERE/called"; [ "$1" = stop ] || eval "$SYMMETRIC_RUN"',
    "trimtab": 'echo "trimtab $*" >> "$HERE/called"',
}


def run(folder: Path, words: list[str], symmetric_run: str = "true", **given: str) -> subprocess.Popen[str]:
    """A script with stand-ins for the commands of Slurm, Ray and trimtab, which write down how they were called.
    symmetric_run: what Ray's does."""
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    given |= {"PATH": f"{folder}:{os.environ['PATH']}", "HERE": str(folder), "SYMMETRIC_RUN": symmetric_run}
    return subprocess.Popen(words, env=os.environ | given, text=True, start_new_session=True)


def slurm(folder: Path, symmetric_run: str, out: str | None = None) -> subprocess.Popen[str]:
    """slurm.sh in an allocation of two machines."""
    out = out or str(folder / "runs" / "out")
    words = ["bash", str(FOLDER / "slurm.sh"), "mine.yaml", out, "--seeds", "0,1,2"]
    return run(
        folder, words, symmetric_run, SLURM_JOB_NODELIST="node-[1-2]", SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2",
        SLURM_CPUS_PER_TASK="16",
    )  # fmt: skip


def called(folder: Path) -> list[str]:
    file = folder / "called"
    return file.read_text().splitlines() if file.exists() else []


RUNS = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
"""As symmetric-run on the first machine."""


def test_slurm_sh_passes_on_what_it_is_given(tmp_path: Path) -> None:
    assert slurm(tmp_path, RUNS).wait(30) == 0
    srun, stop, ray, trimtab = called(tmp_path)
    assert srun == "srun --kill-on-bad-exit=1 --cpus-per-task=16", "which it does not take from sbatch"
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
    assert slurm(tmp_path, symmetric_run).wait(30) != 0
    assert not [line for line in called(tmp_path) if line.startswith("trimtab")]
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_may_end_with_a_slash_and_must_be_one(tmp_path: Path) -> None:
    assert slurm(tmp_path, RUNS, f"{tmp_path}/runs/out/").wait(30) == 0
    (tmp_path / "file").write_text("")
    assert slurm(tmp_path, RUNS, f"{tmp_path}/file/out").wait(30) != 0
    assert [line.split()[4] for line in called(tmp_path) if line.startswith("trimtab")] == [f"{tmp_path}/runs/out"]


def test_a_task_that_slurm_ends_stops_its_ray(tmp_path: Path) -> None:
    """Slurm sends SIGTERM to all that it knows of a task; Ray's own processes are not among them."""
    job = slurm(tmp_path, "sleep 60")
    for _ in range(300):
        if len(called(tmp_path)) == 3:
            break
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(30) != 0
    for _ in range(100):
        if len(called(tmp_path)) == 4:
            break
        time.sleep(0.1)
    assert called(tmp_path)[3] == "ray stop --force"


def pod(folder: Path, symmetric_run: str) -> subprocess.Popen[str]:
    """What the first pod of kubernetes.yaml runs."""
    job = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))[1]
    (script,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    script = script.replace("/tmp/ran", f"{folder}/ran")
    return run(folder, ["bash", "-c", script], symmetric_run, JOB_COMPLETION_INDEX="0")


def test_the_first_pod_fails_where_the_study_did_not_run(tmp_path: Path) -> None:
    assert pod(tmp_path, "true").wait(30) != 0
    assert len(called(tmp_path)) == 1
    assert pod(tmp_path, RUNS).wait(30) == 0
    assert called(tmp_path)[-1] == "trimtab study /study/mine.yaml --out /study/runs/mine --ray auto"


@pytest.mark.parametrize(("starts", "rank"), [("true", "0"), ("true", "1"), ("false", "0")])
def test_on_rented_machines_the_first_runs_the_study(starts: str, rank: str, tmp_path: Path) -> None:
    """With SkyPilot's Ray beside it, which "auto" might find: hence an address."""
    script = yaml.safe_load((FOLDER / "sky.yaml").read_text())["run"]
    templates = tmp_path / "sky_templates" / "ray"
    templates.mkdir(parents=True)
    (templates / "start_cluster").write_text(f"#!/bin/bash\n{starts}\n")
    (templates / "start_cluster").chmod(0o755)
    made = run(
        tmp_path, ["bash", "-c", script], HOME=str(tmp_path), SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        SKYPILOT_NODE_RANK=rank, RECIPE="/study/mine.yaml", OUT="/study/runs/mine",
    )  # fmt: skip
    assert (made.wait(30) == 0) is (starts == "true")
    study = ["trimtab study /study/mine.yaml --out /study/runs/mine --ray 10.0.0.1:6379"]
    assert called(tmp_path) == (study if (starts, rank) == ("true", "0") else [])
