"""A study on a Ray cluster of three machines, simulated on this one: the results of one process, whatever dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.same_results import but_for_the_date
from study.test_workers import recipe
from training.toy import write_model
from trimtab.evaluation.results import Results

pytestmark = pytest.mark.ray
SEEDS = "0,1"
METHODS = ["base", "sft", "sft_length", "dpo", "grpo", "ppo"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    value = recipe(write_model(folder / "model"), methods=METHODS)
    value["sft_length"] = {"length_penalty": {"weight": 0.01, "max_new_tokens": 8}}
    value["ppo"] = {**value["grpo"], "rewards": [{"kind": "gold"}]}
    del value["ppo"]["samples"]
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def start(file: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "trimtab", "study", str(file), "--out", str(out), "--seeds", SEEDS, *more]
    return subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.fixture(scope="module")
def alone(file: Path) -> Path:
    out = file.parent / "alone"
    ran = start(file, out, "--workers", "1")
    _, said = ran.communicate(timeout=600)
    assert ran.returncode == 0, said
    return out


def same(out: Path, alone: Path) -> None:
    """Weights, completions and scores byte for byte; results but for the clock."""
    for pattern in ("best/*.safetensors", "generations.jsonl", "scores.jsonl"):
        files = sorted(path.relative_to(alone) for path in alone.rglob(pattern))
        assert len(files) >= 8
        for path in files:
            assert (out / path).read_bytes() == (alone / path).read_bytes(), path
    first, second = (but_for_the_date(Results.read(folder / "results.json")) for folder in (alone, out))
    quiet = {"provenance", "curves", "other_curves"}
    assert second.model_dump(exclude=quiet) == first.model_dump(exclude=quiet)


def test_three_machines_give_the_results_of_one_process(
    cluster: Any, file: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ran = start(file, out, "--ray", cluster.address)
    _, said = ran.communicate(timeout=600)
    assert ran.returncode == 0, said
    assert "Ray: 3 machines, 3 cores" in said
    same(out, alone)


def workers() -> list[int]:
    """Processes of Ray that do a task of ours."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if place.joinpath("cmdline").read_bytes().startswith(b"ray::work_here"):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def test_whatever_dies_the_results_are_the_same(cluster: Any, file: Path, alone: Path, tmp_path: Path) -> None:
    """At ten moments a worker, a whole machine or the study's own process is killed. In the end nothing is missing,
    and what was done is not done again."""
    chance, out = random.Random(5), tmp_path / "run"
    run = start(file, out, "--ray", cluster.address)
    for number in range(10):
        time.sleep(chance.uniform(2, 7))
        kind = ("worker", "driver", "machine", "worker", "raylet")[number % 5]
        if run.poll() is not None and kind != "driver":
            break
        if kind == "worker" and (busy := workers()):
            os.kill(chance.choice(busy), signal.SIGKILL)
        elif kind in ("machine", "raylet"):
            node = cluster.worker_nodes.copy().pop()
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)
        elif kind == "driver":
            run.kill()
            run.communicate()
            done = {path: path.stat().st_mtime_ns for path in out.rglob("done.json")}
            run = start(file, out, "--ray", cluster.address)
            assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    _, said = run.communicate(timeout=900)
    for _ in range(3):  # of a task that died three times the study is named, and the same command goes on
        if run.returncode == 0:
            break
        assert "lost" in said, said
        run = start(file, out, "--ray", cluster.address)
        _, said = run.communicate(timeout=900)
    assert run.returncode == 0, said
    same(out, alone)
