"""What trackers are told: every metric of every row once, by their own readers, also of runs that were killed."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from commands import Commands
from training.toy import write_model
from trimtab.errors import TrimtabError
from trimtab.notices import collected
from trimtab.training import callbacks
from trimtab.training.callbacks import Tracker, check_trackers, numbers, run_name
from trimtab.training.metrics import MetricsLog, read_metrics

Points = dict[tuple[str, int], float]
"""(metric, step) -> value."""


def tensorboard_points(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    found = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    assert max(Counter((tag, step) for tag, step, _ in found).values()) == 1, "each step once"
    return {(tag, step): value for tag, step, value in found}


def trackio_points(project: str, run: str) -> Points:
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, run)
    found = [
        (tag, int(row["step"]), value)
        for row in rows
        for tag, value in row.items()
        if tag.startswith(("train/", "eval/"))
    ]
    assert max(Counter((tag, step) for tag, step, _ in found).values()) == 1, "each step once"
    return {(tag, step): value for tag, step, value in found}


def logged(metrics: Path) -> Points:
    return {(tag, row["step"]): value for row in read_metrics(metrics) for tag, value in numbers(row).items()}


def agree(told: Points, wanted: Points) -> None:
    """TensorBoard keeps float32. Seconds are those of the run that was killed, where it had told of them."""
    assert set(told) == set(wanted)
    for (tag, step), value in wanted.items():
        if tag != "train/seconds":
            assert math.isclose(told[tag, step], value, rel_tol=1e-6), (tag, step)


def killed_and_resumed(tracker: str, tmp_path: Path, commands: Commands, write_jsonl: Callable[..., Path]) -> Path:
    """A stage that was killed in the middle of a step, three steps behind its last checkpoint, and run again."""
    model = write_model(tmp_path / "model")
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(24)]
    data, out = write_jsonl(rows, "rows.jsonl"), tmp_path / "study" / "seed-3" / "stages" / "sft"
    words = ["sft", "--model", model, "--data", data, "--out", out]
    for value in (
        "batch_size=4", "max_steps=12", "evaluation_interval=4", "logging_interval=1", "precision=float32",
        f"trackers=[{tracker}]",
    ):  # fmt: skip
        words += ["--set", value]
    words += ["--validation", data]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    killed = commands.run(*map(str, words), moment="update", count=8, environment=environment)
    assert killed.returncode == -9, killed.stderr
    done = commands.run(*map(str, words), environment=environment)
    assert done.returncode == 0, done.stderr
    assert "failed and is told nothing" not in done.stderr
    assert not done.stdout.startswith("*"), "standard output is for results"
    return out


def test_tensorboard_reads_every_metric_back_once(
    tmp_path: Path, commands: Commands, write_jsonl: Callable[..., Path]
) -> None:
    out = killed_and_resumed("tensorboard", tmp_path, commands, write_jsonl)
    wanted = logged(out / "metrics.jsonl")
    assert {("train/loss", step) for step in range(1, 13)} < set(wanted)
    assert {("eval/loss", step) for step in (0, 4, 8, 12)} < set(wanted)
    agree(tensorboard_points(tmp_path / "study" / "tensorboard" / "seed-3" / "sft"), wanted)


@pytest.mark.trackio
def test_trackio_reads_every_metric_back_once(
    tmp_path: Path, commands: Commands, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    out = killed_and_resumed("trackio", tmp_path, commands, write_jsonl)
    agree(trackio_points("study", "sft seed-3"), logged(out / "metrics.jsonl"))


class Recorder:
    """accelerate's side of a tracker, which breaks when it is told a certain step."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.breaks_at, self.rows, self.finished = breaks_at, [], 0  # type: ignore[var-annotated]

    def start(self) -> None:
        print("* a greeting")

    def store_init_configuration(self, values: Mapping[str, object]) -> None:
        self.settings = values

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self.breaks_at:
            raise ConnectionError("the server is gone\nand more")
        self.rows.append((step, dict(values)))

    def finish(self) -> None:
        self.finished += 1


def of_stage(monkeypatch: pytest.MonkeyPatch, stage: Path, recorder: Recorder, told: Any = None) -> Tracker:
    monkeypatch.setattr(callbacks, "_opened", lambda *_, **__: recorder)
    monkeypatch.setattr(callbacks, "_told", lambda *_: told or {})
    return Tracker("wandb", stage, {"learning_rate": 0.1})


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, recorder = MetricsLog(tmp_path / "metrics.jsonl"), Recorder(breaks_at=2)
    with collected() as kept:
        tracker = of_stage(monkeypatch, tmp_path, recorder)
        for step in (1, 2, 3):
            row = {"step": step, "loss": step / 2, "name": "x", "broken": math.nan}
            log.write(row)
            tracker.logged(row)
        tracker.ended()
    assert recorder.rows == [(1, {"train/loss": 0.5})]
    assert kept.lines == ["wandb failed and is told nothing more (the server is gone)"]
    assert capsys.readouterr().out == "", "a greeting is no result"


def test_what_a_tracker_lost_in_a_kill_is_told_again_from_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own reader has step 2 of training, and no evaluation, though it was told of four steps and one."""
    log, first = MetricsLog(tmp_path / "metrics.jsonl"), Recorder()
    tracker = of_stage(monkeypatch, tmp_path, first)
    rows: list[dict[str, float]] = [
        {"step": 0, "eval_loss": 9.0},
        *({"step": s, "loss": float(s)} for s in (1, 2, 3, 4)),
    ]
    for row in rows:
        log.write(row)
        tracker.logged(row)
    assert [step for step, _ in first.rows] == [0, 1, 2, 3, 4]
    identity = json.loads((tmp_path / "tracked.json").read_text())["wandb"]["run"]
    second = Recorder()
    tracker = of_stage(monkeypatch, tmp_path, second, {"train": 2, "eval": -1})
    assert tracker.mark.run == identity
    log.write({"step": 5, "loss": 5.0})
    tracker.logged({"step": 5, "loss": 5.0})
    tracker.ended()
    told = [(0, {"eval/loss": 9.0}), *((step, {"train/loss": float(step)}) for step in (3, 4, 5))]
    assert second.rows == told
    third = Recorder()
    of_stage(monkeypatch, tmp_path, third, {"train": 4, "eval": 0}).ended()
    assert third.rows == [(5, {"train/loss": 5.0})], "a run that has nothing more to log says what is missing"
    assert third.finished == 1


def test_what_runs_are_called(tmp_path: Path) -> None:
    assert run_name(tmp_path / "mine" / "seed-2" / "stages" / "dpo") == (
        "mine", "dpo", "dpo seed-2", tmp_path / "mine" / "tensorboard" / "seed-2",
    )  # fmt: skip
    assert run_name(tmp_path / "dpo") == ("trimtab", "dpo", "dpo", tmp_path / "dpo" / "tensorboard")


def test_a_tracker_that_is_not_installed_is_a_dead_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TrimtabError, match=r"mlflow is not installed: pip install 'trimtab\[mlflow\]'"):
        check_trackers(["mlflow"])
    check_trackers([])
