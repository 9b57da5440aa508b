"""Two processes take the same steps as one: gradients, metrics and weights, for every method and normalisation."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from training.processes import JOBS, KEPT, SHARING, a_teacher, check_same_steps, run_jobs
from trimtab.training.metrics import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("processes.py")


def looked_at(session: pytest.Session) -> list[str]:
    """One job where one test of it is run; all where a test is of all."""
    items = [item for item in session.items if isinstance(item, pytest.Function) and item.path == Path(__file__)]
    named = {item.callspec.params["job"] if hasattr(item, "callspec") else None for item in items}
    return [job for job in JOBS if None in named or job in named]


@pytest.fixture(scope="module")
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_model: Path, toy_pairs: Path
) -> dict[int, Path]:
    """The jobs that the selected tests look at, by two processes and by one."""
    jobs = looked_at(request.session)
    folder = tmp_path_factory.mktemp("processes")
    a_teacher(toy_model)  # before two processes want it
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    command += [str(toy_model), str(toy_pairs), str(folder / "2"), *jobs]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stderr[-3000:]
    run_jobs(toy_model, toy_pairs, folder / "1", jobs)
    return {1: folder / "1", 2: folder / "2"}


@pytest.mark.parametrize("job", list(JOBS))
def test_two_processes_take_the_steps_of_one(job: str, ran: dict[int, Path]) -> None:
    """Two steps of Adam: where a gradient is rounding noise its sign is too, so weights are compared as a whole."""
    check_same_steps(ran[1] / job, ran[2] / job, 2e-3, 2e-4)


def test_two_processes_end_with_the_weights_of_one(ran: dict[int, Path], toy_model: Path) -> None:
    start = load_file(toy_model / "model.safetensors")
    for job in JOBS:
        one, two = (load_file(ran[n] / job / "best" / "model.safetensors") for n in (1, 2))
        known = [name for name in one if name in start]
        moved = sum(float((one[n] - start[n]).square().sum()) for n in known) ** 0.5
        apart = sum(float((one[n] - two[n]).square().sum()) for n in known) ** 0.5
        assert apart <= 0.05 * moved, (job, apart, moved)


@pytest.mark.parametrize("job", [job for job in ("dpo", "dpo_lora", "dpo_nf4") if job in JOBS])
def test_two_processes_begin_at_their_reference(job: str, ran: dict[int, Path]) -> None:
    """Loss ln 2 and rewards 0, though every process has other rows in other passes than the reference had: computed
    by one process for both, and read from the disk, also for a new adapter, whose reference is the same."""
    evaluated, trained = read_metrics(ran[2] / job / "metrics.jsonl")[:2]
    for row, prefix in ((evaluated, "eval_"), (trained, "")):
        assert row[f"{prefix}loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert abs(row[f"{prefix}rewards/chosen"]) <= 1e-4
        assert abs(row[f"{prefix}rewards/rejected"]) <= 1e-4
    assert abs(read_metrics(ran[2] / job / "metrics.jsonl")[-1]["eval_rewards/margins"]) > 1e-4
    if job in SHARING:
        assert len(list((ran[2] / "cache").iterdir())) == 1


@pytest.mark.parametrize("job", KEPT)
def test_one_process_prepares_the_rows_for_all(job: str, ran: dict[int, Path]) -> None:
    """What both leave is the rows, and token ids of training and of validation."""
    names = [sorted(path.name for path in (ran[n] / job / "prepared").iterdir()) for n in (1, 2)]
    assert names[0] == names[1]
    assert [name.partition("-")[0] for name in names[0]] == ["rows", "tokens", "tokens"]


def test_what_is_best_is_the_same_for_all_processes(ran: dict[int, Path]) -> None:
    """One that went by its own loss would stop at step 1 and leave the other waiting."""
    done = json.loads((ran[2] / "disagreeing" / "done.json").read_text())
    assert (done["step"], done["best_step"], done["stopped_early"]) == (4, 4, False)


@pytest.mark.parametrize("job", [name for name in JOBS if name.startswith(("grpo", "ppo", "online"))])
def test_processes_pay_for_a_score_once(job: str, ran: dict[int, Path]) -> None:
    one, two = ((ran[n] / f"{job}.calls").read_text() for n in (1, 2))
    assert len(one) == len(two) > 0
