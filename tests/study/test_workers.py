"""A study's stages and evaluations in several processes: what each waits for, the same results, and every end."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from commands import Commands, Running
from study.same_results import but_for_the_date
from training.toy import write_model
from trimtab.command_settings import check_sharing, gpus_named
from trimtab.data.parsing import parse
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.methods.sft import SFT
from trimtab.notices import collected, warn
from trimtab.recipe import Recipe
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.stopping import SENTENCE
from trimtab.study import workers
from trimtab.study.crew import Died, Outcome, Processes
from trimtab.study.folder import open_study_folder
from trimtab.study.run import run_study, sandbox_data
from trimtab.study.sources import make_judge
from trimtab.study.training_seed import TrainingSeed
from trimtab.study.worker import run_of, seeds_of_run
from trimtab.study.workers import tasks_of, workers_for
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
    assert "grpo: done, " in ran.stderr
    assert "(8/8 tasks done)" in ran.stderr
    assert "grpo: 2/2" in (out / "logs" / "seed-0-grpo.log").read_text()
    assert (out / "logs" / "seed-0-answers-base.log").is_file()
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
            tmp_path / "shared",
            frozenset({"sft"}),
            "evaluation-tuning",
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


class Scripted:
    """A crew whose tasks come to what a test says: of each title the outcomes in order, then nothing amiss."""

    def __init__(self, seeds: list[TrainingSeed], outcomes: dict[str, list[Outcome]], slots: int = 1) -> None:
        self.seeds, self.outcomes, self.slots = seeds, outcomes, slots
        self.now: list[workers.Task] = []
        self.begun: list[str] = []
        self.left = False

    def is_free(self) -> bool:
        return len(self.now) < self.slots

    def begin(self, task: workers.Task) -> None:
        assert self.is_free()
        self.now.append(task)
        self.begun.append(task.title(self.seeds))

    def ended(self, seconds: float) -> list[tuple[workers.Task, Outcome]]:
        task = self.now.pop(0)
        script = self.outcomes.get(task.title(self.seeds), [])
        return [(task, script.pop(0) if script else {})]

    def leave(self) -> None:
        self.left = True


def test_what_a_process_warned_of_is_kept_and_not_said_again(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = [seed_of(recipe(model))]
    crew = Scripted(seeds, {"sft": [{"rows": "the rows were damaged"}]})
    with collected() as kept:
        workers.work_through(seeds, crew)
        warn("the rows were damaged", about="rows")
    assert kept.by_subject == {"rows": "the rows were damaged"}
    assert "the rows were damaged" not in capsys.readouterr().err, "the process has said it"
    assert crew.left
    assert sorted(crew.begun) == sorted(task.title(seeds) for task in tasks_of(seeds))


@pytest.mark.parametrize(("deaths", "begun"), [(1, 2), (2, 3), (3, 3), (9, 3)])
def test_a_task_whose_process_dies_is_begun_again_twice(deaths: int, begun: int, model: Path) -> None:
    """Then it is named, and what does not wait for it is done before that."""
    seeds = [seed_of(recipe(model))]
    crew = Scripted(seeds, {"dpo": [Died("killed by SIGKILL")] * deaths}, slots=2)
    if deaths < workers.TRIES:
        workers.work_through(seeds, crew)
    else:
        message = r"^dpo: its process was killed by SIGKILL, 3 times, .*seed-0-dpo\.log\)\. .*--workers 1"
        with pytest.raises(TrimtabError, match=message):
            workers.work_through(seeds, crew)
    assert crew.begun.count("dpo") == begun
    assert crew.begun.count("grpo") == 1
    assert crew.begun.count("answers of grpo") == 1
    assert crew.begun.count("answers of dpo") == (deaths < workers.TRIES)


def test_a_dead_end_is_not_tried_again(model: Path) -> None:
    seeds = [seed_of(recipe(model))]
    crew = Scripted(seeds, {"reward": [TrimtabError("no rows")]})
    with pytest.raises(TrimtabError, match=r"^no rows$"):
        workers.work_through(seeds, crew)
    assert crew.begun.count("reward") == 1
    assert {"dpo", "answers of dpo", "answers of base"} <= set(crew.begun)
    assert not {"grpo", "answers of grpo"} & set(crew.begun), "they wait for the reward model"


def test_a_crew_is_left_whatever_ends_the_work(model: Path) -> None:
    seeds = [seed_of(recipe(model))]
    crew = Scripted(seeds, {})
    crew.ended = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        workers.work_through(seeds, crew)
    assert crew.left


def test_gpus_are_handed_out_in_turn_and_must_be_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [seed_of(recipe(model))]
    slots = Processes(run_of(seeds, 1), 3, ["1", "GPU-7a"]).slots
    assert [slot.gpu for slot in slots] == ["1", "GPU-7a", "1"]
    assert [slot.gpu for slot in Processes(run_of(seeds, 1), 2).slots] == [None, None]
    assert workers_for(seeds, None, ["0", "1", "2"]) == 3
    assert workers_for(seeds, 2, ["0", "1", "2"]) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrimtabError, match=r"^--gpus 0,1: CUDA has no GPU 0, 1 here; it sees none\.$"):
        workers.check_gpus(["0", "1"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    workers.check_gpus(["0", "1", "GPU-7a"])
    with pytest.raises(TrimtabError, match=r"no GPU 2 here; it sees 0, 1"):
        workers.check_gpus(["1", "2"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert workers.visible_gpus() == ["4", "6"]
    workers.check_gpus(["6"])


@pytest.mark.parametrize("text", ["", "a", "0,,1", "-1", "0,0", "0;1"])
def test_gpus_that_are_none(text: str) -> None:
    with pytest.raises(TrimtabError, match="expected numbers of GPUs"):
        gpus_named(text)


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
    """Its own process told to stop, all at once killed, a worker killed: nobody is left behind, and one line says
    how it goes on. After the worker's death it does so by itself. In the end the model is the one of a run that
    nothing disturbed."""
    out, file = tmp_path / "run", tmp_path / "longer.yaml"
    value = recipe(model, methods=["sft"], sft={**STAGE, "max_steps": 60, "evaluation_interval": 10})
    file.write_text(yaml.safe_dump(value))
    log = out / "seed-0" / "stages" / "sft" / "metrics.jsonl"
    for end in ("SIGTERM", "SIGKILL", "SIGKILL of a worker"):
        run = commands.start(*words(file, out))
        pool = training(run, log)
        assert pool
        os.kill(pool[0] if "worker" in end else run.pid, getattr(signal, end.split()[0]))
        ended = run.wait()
        code, said = ended.returncode, ended.stderr
        assert "Traceback" not in said
        assert (code, said.count(SENTENCE)) == {"SIGTERM": (143, 1), "SIGKILL": (-9, 0)}.get(end, (0, 0))
        if "worker" in end:
            assert "sft: its process was killed by SIGKILL; it goes on in another one" in said
        until = time.monotonic() + 15
        while any(map(is_alive, pool)):
            assert time.monotonic() < until
            time.sleep(0.05)
    undisturbed = seed_of(value, 0)
    run_stage(
        "sft", SFT, undisturbed.recipe.sft, sandbox_data(undisturbed.recipe, tmp_path), str(model), tmp_path / "sft"
    )
    weights = "best/model.safetensors"
    assert (log.parent / weights).read_bytes() == (tmp_path / "sft" / weights).read_bytes()


def test_ray_that_is_not_installed_is_a_dead_end(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TrimtabError, match=r"--ray: Ray is not installed: pip install 'trimtab\[ray\]'"):
        run_study(parse(Recipe, recipe(model), "test"), tmp_path / "run", ray="auto")
    assert not (tmp_path / "run").exists()


def test_what_a_machine_gives_is_no_part_of_what_a_study_is(model: Path, tmp_path: Path) -> None:
    made = parse(Recipe, recipe(model), "test")
    open_study_folder(made, tmp_path / "run")
    (tmp_path / "run" / "seed-0" / "stages" / "sft").mkdir(parents=True)
    (tmp_path / "run" / "seed-0" / "stages" / "sft" / "metrics.jsonl").touch()
    open_study_folder(parse(Recipe, recipe(model, resources={"cpus": 8, "memory": 3.5}), "test"), tmp_path / "run")
    with pytest.raises(TrimtabError, match="holds another study"):
        open_study_folder(parse(Recipe, recipe(model, seed=4, limit=9), "test"), tmp_path / "run")


def test_ray_decides_alone_what_runs_where() -> None:
    check_sharing("auto", None, [])
    check_sharing(None, 2, ["0"])
    for processes, gpus in ((2, []), (None, ["0"])):
        with pytest.raises(TrimtabError, match="--ray goes without --workers and --gpus"):
            check_sharing("auto", processes, gpus)
