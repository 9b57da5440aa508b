"""Weights that two processes share out: the same steps as one process, in parts, and checkpoints for any number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from training.processes import a_teacher, check_same_steps
from trimtab.training.weights import layers_of

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("processes.py")
SHARED = ["sft", "sft_length", "sft_lora", "dpo", "dpo_lora", "kto", "reward", "grpo", "ppo", "distillation"]


def ran(
    model: Path, pairs: Path, out: Path, jobs: list[str], processes: int, **environment: str
) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), str(model), str(pairs), str(out)]
    return subprocess.run(
        [*command, *jobs],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, toy_model: Path, toy_pairs: Path) -> dict[int, Path]:
    """The jobs by one process, and by two that share the weights out."""
    folder = tmp_path_factory.mktemp("sharing")
    a_teacher(toy_model)  # before two processes want it
    for processes in (1, 2):
        found = ran(toy_model, toy_pairs, folder / str(processes), SHARED, processes, SHARDING="fsdp2")
        assert found.returncode == 0, found.stderr[-3000:]
    return {1: folder / "1", 2: folder / "2"}


@pytest.mark.parametrize("job", SHARED)
def test_shared_weights_take_the_steps_of_whole_ones(job: str, both: dict[int, Path]) -> None:
    """In float32, step by step."""
    check_same_steps(both[1] / job, both[2] / job, 1e-5, 1e-5)


@pytest.mark.parametrize("job", SHARED)
def test_each_process_holds_its_part(job: str, both: dict[int, Path]) -> None:
    """Every weight is a DTensor; a process holds half of weights and moments, and nothing of the plain model."""
    alone = json.loads((both[1] / job / "held-0.json").read_text())
    parts = [json.loads((both[2] / job / f"held-{place}.json").read_text()) for place in (0, 1)]
    assert not any(alone["sharded"])
    assert alone["weights_here"] == alone["weights"]
    for part in parts:
        assert all(part["sharded"])
        assert part["weights"] == alone["weights"]
        assert part["moments"] == alone["moments"] > 0
        assert part["plain_here"] <= 8 * len(part["sharded"])
    for what in ("weights", "moments"):
        assert sum(part[f"{what}_here"] for part in parts) == alone[what]
        # Rows of a matrix of odd height are one more in the first.
        assert parts[1][f"{what}_here"] >= 0.45 * alone[what]


@pytest.mark.parametrize("job", SHARED)
def test_what_is_kept_is_one_whole_model(job: str, both: dict[int, Path], toy_model: Path) -> None:
    one, two = (load_file(both[n] / job / "best" / "model.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    start = load_file(toy_model / "model.safetensors")
    known = [name for name in one if name in start]
    moved = sum(float((one[name] - start[name]).square().sum()) for name in known) ** 0.5
    apart = sum(float((one[name] - two[name]).square().sum()) for name in known) ** 0.5
    assert apart <= 0.05 * moved or moved == apart == 0.0
    auto = AutoModelForSequenceClassification if job == "reward" else AutoModelForCausalLM
    assert auto.from_pretrained(both[2] / job / "best").num_parameters() > 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_model: Path, toy_pairs: Path) -> Path:
    """Runs that nobody kills, by one process."""
    out = tmp_path_factory.mktemp("undisturbed")
    found = ran(toy_model, toy_pairs, out, ["sft_four", "dpo_lora_four"], 1)
    assert found.returncode == 0, found.stderr[-3000:]
    return out


@pytest.mark.parametrize(
    ("job", "first", "second"),
    [("sft_four", 2, 1), ("sft_four", 1, 2), ("sft_four", 2, 2), ("dpo_lora_four", 2, 1), ("dpo_lora_four", 1, 2)],
)
def test_a_killed_run_goes_on_with_another_number_of_processes(
    job: str, first: int, second: int, undisturbed: Path, toy_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    """The same later steps, and no step twice."""
    killed = ran(toy_model, toy_pairs, tmp_path, [job], first, SHARDING="fsdp2", KILLED_AT="2")
    assert killed.returncode != 0
    (checkpoint,) = (tmp_path / job / "checkpoints").glob("step-*")
    assert (checkpoint / ".metadata").is_file() == (first == 2)
    again = ran(toy_model, toy_pairs, tmp_path, [job], second, SHARDING="fsdp2")
    assert again.returncode == 0, again.stderr[-3000:]
    check_same_steps(undisturbed / job, tmp_path / job, 1e-4, 1e-5)


def by_hosts(hosts: int, model: Path, pairs: Path, out: Path) -> None:
    """`torchrun` as docs/scale.md has it, with an agent of its own for each host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    launcher = ["-m", "torch.distributed.run", "--nnodes", str(hosts), "--nproc_per_node", "1"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", place, "--rdzv_id", out.name, "-m", "trimtab"]
    command = ["dpo", "--model", str(model), "--data", str(pairs), "--out", str(out)]
    for setting in ("sharding=fsdp2", "precision=float32", "batch_size=4", "max_steps=4", "checkpoint_interval=2",
                    "learning_rate=1e-3", "warmup_steps=0", "logging_interval=1", "data.max_length=200",
                    "data.validation_rows=6"):  # fmt: skip
        command += ["--set", setting]
    agents = [
        subprocess.Popen(
            [sys.executable, *launcher, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(hosts)
    ]  # fmt: skip
    try:
        said = [agent.communicate(timeout=300)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0] * hosts, "\n".join(said)[-3000:]


def test_two_hosts_take_the_steps_of_one(toy_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Each host has a process 0 of its own; only one of all writes."""
    for hosts in (1, 2):
        by_hosts(hosts, toy_model, toy_pairs, tmp_path / f"hosts-{hosts}")
    check_same_steps(tmp_path / "hosts-1", tmp_path / "hosts-2", 1e-5, 1e-5)
    assert (tmp_path / "hosts-2" / "best" / "model.safetensors").is_file()


def test_layers_are_those_that_must_stay_whole() -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert layers_of(model) == list(model.model.layers)
    assert layers_of(nn.Linear(2, 2)) == []
