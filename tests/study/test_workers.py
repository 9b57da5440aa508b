"""A study's stages and evaluations in several processes: what each waits for, the same results, and every end."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from commands import Commands, Running
from study.same_results import but_for_the_date
from training.toy import write_model
from trimtab.data.parsing import parse
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.methods.sft import SFT
from trimtab.notices import collected, current_warnings, warn
from trimtab.recipe import Recipe
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.stopping import SENTENCE
from trimtab.study import workers
from trimtab.study.run import sandbox_data
from trimtab.study.sources import make_judge
from trimtab.study.training_seed import TrainingSeed
from trimtab.study.workers import run_of, seeds_of_run, tasks_of, workers_for
from trimtab.training.stage import run_stage

STAGE = {"batch_size": 4, "max_steps": 2, "evaluation_interval": 2, "logging_interval": 1, "learning_rate": 1e-3}
BROKEN = "def reward(prompts, completions, **_):\n    raise ValueError('no scores today')\n"


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "model": str(model),
        "opponent": str(model),
        "judge": "gold",
        "methods": ["base", "sft", "dpo", "grpo"],
        "sandbox": {"train_rows": 24, "validation_rows": 8, "test_rows": 6},
        "sft": STAGE,
        "dpo": STAGE,
        "reward": STAGE,
        "grpo": {**STAGE, "samples": 2, "rewards": [{"kind": "trained"}], "sampling": {"max_new_tokens": 8}},
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 8}},
        **changes,
    }


def seed_of(value: dict[str, Any], seed: int = 0) -> TrainingSeed:
    made = parse(Recipe, {**value, "seed": seed}, "test")
    return TrainingSeed(made, DataSettings(train="rows.jsonl"), Splits([], [], []), Path("out"), None)


def words(file: Path, out: Path, workers: int = 2) -> list[str]:
    return ["study", str(file), "--out", str(out), "--workers", str(workers)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("workers") / "model")


@pytest.fixture(scope="module")
def file(model: Path) -> Path:
    """Of a study whose GRPO samples for prompts of their own."""
    path, prompts = model.parent / "small.yaml", model.parent / "prompts.jsonl"
    write_preferences(preference_data("train", 12, seed=5), prompts)
    value = recipe(model, prompts={"train": str(prompts), "validation_rows": 2})
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.fixture(scope="module")
def alone(file: Path, commands: Commands) -> Path:
    """The study in one process, of one thread as each of the two has."""
    out = file.parent / "alone"
    ran = commands.run(*words(file, out, workers=1), environment=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    return out


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_each_task_waits_for_and_which_comes_first() -> None:
    """sft holds up a row of three, the reward model of two; an evaluation holds up nothing."""
    tasks = tasks_of([seed_of(recipe(Path("m"), methods=["base", "sft", "sft_length", "dpo", "grpo"]))])
    assert [(task.stage or f"measure {task.method}", task.waits_for) for task in tasks] == [
        ("sft", ()),
        ("reward", ("sft",)),
        ("sft_length", ()),
        ("dpo", ("sft",)),
        ("grpo", ("sft", "reward")),
        ("measure sft", ("sft",)),
        ("measure sft_length", ("sft_length",)),
        ("measure dpo", ("dpo",)),
        ("measure grpo", ("grpo",)),
        ("measure base", ()),
    ]


def test_a_round_waits_for_the_round_before_and_each_seed_for_its_own() -> None:
    value = recipe(
        Path("m"), methods=["sft", "online_dpo"], online_dpo={"rounds": 2, "rewards": [{"kind": "gold"}]}
    )
    tasks = tasks_of([seed_of(value), seed_of(value, 1)])
    stages = {(task.seed, task.stage): task.waits_for for task in tasks if task.stage}
    assert stages == {
        (seed, name): waits
        for seed in (0, 1)
        for name, waits in [("sft", ()), ("online_dpo-1", ("sft",)), ("online_dpo-2", ("online_dpo-1",))]
    }
    measured = [(task.seed, task.method, task.waits_for) for task in tasks if not task.stage]
    assert (1, "online_dpo", ("online_dpo-2",)) in measured
    assert [task.method for task in tasks].count("opponent") == 1


def test_how_many_processes(model: Path, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unasked, one for each thread of a tiny model's study, four at most; one for a model that uses all threads."""
    tiny, unknown = seed_of(recipe(model)), seed_of(recipe(Path("organisation/a-model")))
    torch.set_num_threads(3)
    assert workers_for([tiny], None) == 3
    assert workers_for([unknown], None) == 1
    torch.set_num_threads(8)
    assert (workers_for([tiny], None), workers_for([tiny], 5), workers_for([tiny], 99)) == (4, 5, 8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert workers_for([tiny], 5) == 1


def test_two_processes_give_the_results_of_one(alone: Path, file: Path, tmp_path: Path, commands: Commands) -> None:
    """Byte for byte: weights, metrics but for the clock, completions, scores, and what the report shows."""
    out = tmp_path / "run"
    ran = commands.run(*words(file, out))
    assert ran.returncode == 0, ran.stderr
    assert "2 processes of 1 thread share the stages and evaluations" in ran.stderr
    assert "already done" not in ran.stderr
    assert "grpo: 2/2" in ran.stderr
    for pattern in ("best/*.safetensors", "generations.jsonl", "scores.jsonl"):
        files = sorted(path.relative_to(alone) for path in alone.rglob(pattern))
        assert len(files) >= 4
        for path in files:
            assert (out / path).read_bytes() == (alone / path).read_bytes(), path
    first, second = (but_for_the_date(Results.read(folder / "results.json")) for folder in (alone, out))
    quiet = {"provenance", "curves"}
    assert second.model_dump(exclude=quiet) == first.model_dump(exclude=quiet)
    again = commands.run(*words(file, out))
    assert again.returncode == 0
    assert "processes of" not in again.stderr


def test_a_stage_that_fails_ends_the_study_after_the_others(
    model: Path, tmp_path: Path, commands: Commands
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    file, out = tmp_path / "small.yaml", tmp_path / "run"
    rewards = [{"kind": "function", "path": f"{tmp_path / 'broken.py'}:reward"}]
    value = recipe(model)
    value["grpo"] = {**value["grpo"], "rewards": rewards}
    file.write_text(yaml.safe_dump(value))
    ran = commands.run(*words(file, out))
    assert ran.returncode == 1
    [error] = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert "no scores today" in error
    assert "Traceback" not in ran.stderr
    assert (out / "seed-0" / "stages" / "dpo" / "done.json").is_file()
    assert (out / "seed-0" / "evaluation" / "dpo" / "inputs.json").is_file()
    assert not (out / "results.json").exists()


def test_a_process_is_told_all_that_a_seed_has(tmp_path: Path) -> None:
    rows, own = Splits([Record("a", ("b",))], [], [], unpaired=3), Splits([Record("c", ("d",))])
    value, prompts = recipe(Path("m")), DataSettings(train="prompts.jsonl", limit=7)
    seeds = [
        TrainingSeed(
            recipe,
            DataSettings(train="rows.jsonl", max_length=99),
            rows,
            tmp_path,
            judge,
            (prompts, own),
            (DataSettings(train="pairs.jsonl"), Splits([Record("e", ("f", "g"))])),
            4,
        )
        for recipe in (parse(Recipe, {**value, "seed": seed}, "test") for seed in (0, 4))
        for judge in [make_judge(recipe.judge, tmp_path)]
    ]
    told = seeds_of_run(pickle.loads(pickle.dumps(run_of(seeds, 1))))
    for field in fields(TrainingSeed):
        before, after = ([getattr(seed, field.name) for seed in group] for group in (seeds, told))
        if field.name == "judge":
            before, after = ([judge.signature for judge in group] for group in (before, after))
        assert after == before, field.name
        assert None not in after, f"{field.name}: give this test one, so that it sees whether it is told"


def test_what_a_process_warned_of_is_kept_and_not_said_again(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pool:
        def __init__(self, *_: Any) -> None:
            """Nothing is started."""

        def submit(self, _: Any, task: workers.Task) -> Future[dict[str, str]]:
            future: Future[dict[str, str]] = Future()
            with collected():
                if task.stage == "sft":
                    warn("the rows were damaged", about="rows")
                future.set_result(current_warnings())
            return future

        def shutdown(self, **_: Any) -> None:
            """Nothing is left."""

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    with collected() as kept:
        workers._run([seed_of(recipe(model))], 1, 1)
        warn("the rows were damaged", about="rows")
    assert kept.by_subject == {"rows": "the rows were damaged"}
    assert capsys.readouterr().err.count("the rows were damaged") == 1


@pytest.mark.parametrize("at", ["a task's end", "the next task's beginning"])
def test_a_pool_that_is_gone_is_told_in_words(at: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process was killed at work, or between two tasks: then it is the next task that finds no pool."""

    class Gone:
        def __init__(self, *_: Any) -> None:
            self.given = 0

        def submit(self, *_: Any) -> Future[dict[str, str]]:
            self.given += 1
            if self.given > 1:
                raise BrokenProcessPool
            future: Future[dict[str, str]] = Future()
            if at == "a task's end":
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result({})
            return future

        def shutdown(self, **_: Any) -> None:
            """Nothing is left."""

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Gone)
    with pytest.raises(TrimtabError, match="a process of the study was killed"):
        workers._run([seed_of(recipe(model))], 1, 1)


def children_of(pid: int) -> list[int]:
    """Processes of the pool: those that were spawned, without multiprocessing's own helper."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def training(run: Running, log: Path) -> list[int]:
    """Waits until this run has trained a step, and returns the pool's processes."""
    size = log.stat().st_size if log.exists() else 0
    until = time.monotonic() + 120
    while not log.exists() or log.stat().st_size <= size:
        assert is_alive(run.pid)
        assert time.monotonic() < until
        time.sleep(0.02)
    return children_of(run.pid)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes of Linux")
def test_stopped_and_killed_and_run_again(model: Path, tmp_path: Path, commands: Commands) -> None:
    """Its own process told to stop, a worker killed, all at once killed: nobody is left behind, and one line says
    how it goes on. In the end the model is the one of a run that nothing disturbed."""
    out, file = tmp_path / "run", tmp_path / "longer.yaml"
    value = recipe(model, methods=["sft"], sft={**STAGE, "max_steps": 60, "evaluation_interval": 10})
    file.write_text(yaml.safe_dump(value))
    log = out / "seed-0" / "stages" / "sft" / "metrics.jsonl"
    for end in ("SIGTERM", "SIGKILL of a worker", "SIGKILL"):
        run = commands.start(*words(file, out))
        pool = training(run, log)
        assert pool
        os.kill(pool[0] if "worker" in end else run.pid, getattr(signal, end.split()[0]))
        ended = run.wait()
        code, said = ended.returncode, ended.stderr
        assert "Traceback" not in said
        assert (code, said.count(SENTENCE)) == {"SIGTERM": (143, 1), "SIGKILL": (-9, 0)}.get(end, (1, 0))
        if "worker" in end:
            [error] = [line for line in said.splitlines() if line.startswith("error: ")]
            assert "a process of the study was killed" in error
        until = time.monotonic() + 15
        while any(map(is_alive, pool)):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert commands.run(*words(file, out, workers=1)).returncode == 0
    undisturbed = seed_of(value, 0)
    run_stage(
        "sft", SFT, undisturbed.recipe.sft, sandbox_data(undisturbed.recipe, tmp_path), str(model), tmp_path / "sft"
    )
    weights = "best/model.safetensors"
    assert (log.parent / weights).read_bytes() == (tmp_path / "sft" / weights).read_bytes()
