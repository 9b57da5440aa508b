"""What else sees the rows of metrics.jsonl while a run goes on: TensorBoard, Trackio, Weights & Biases, MLflow.

A callback has two methods. Those of the trackers go through accelerate's. metrics.jsonl stays the record: a tracker
is told every row that it was not told before, also of a run that was killed; one that fails is left out, with a
warning.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from trimtab.errors import TrimtabError, first_line
from trimtab.files import read_json, write_json
from trimtab.json_types import JsonObject
from trimtab.notices import warn
from trimtab.training.metrics import read_metrics
from trimtab.training.schedule import TrackerName

STAGES = "stages"
"""The folder of a training seed's stages in a study."""
MARKS, METRICS = "tracked.json", "metrics.jsonl"
"""In a stage's folder: what each tracker was told, and the record."""
TRAINING, EVALUATION = "train", "eval"
"""Kinds of rows, and what trackers group metrics by."""


class Callback(Protocol):
    """Sees a run as it goes on, in the process that logs."""

    def logged(self, row: Mapping[str, object]) -> None:
        """A row of metrics.jsonl: of training, or of an evaluation, whose metrics begin with eval_."""
        ...

    def ended(self) -> None:
        """There are no more rows, whatever ended the run."""
        ...


@dataclass
class Mark:
    """Of a tracker's run: what it calls the run, and the last step of each kind of row that it was told."""

    run: str
    last: dict[str, int] = field(default_factory=dict)


class RunName(NamedTuple):
    """What trackers call a run. folder: where TensorBoard's files go."""

    project: str
    group: str
    name: str
    folder: Path


def run_name(stage: Path) -> RunName:
    """Of a stage's folder. In a study the project is the study, and the stage of all training seeds a group."""
    where = stage.absolute()
    if where.parent.name == STAGES and where.parent.parent.name.startswith("seed-"):
        seed, study = where.parent.parent, where.parent.parent.parent
        return RunName(study.name, where.name, f"{where.name} {seed.name}", study / "tensorboard" / seed.name)
    return RunName("trimtab", where.name, where.name, where / "tensorboard")


def check_trackers(trackers: Sequence[TrackerName]) -> None:
    """TrimtabError where a tracker's package is not installed."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise TrimtabError(f"trackers: {name} is not installed: pip install 'trimtab[{name}]'")


class Tracker:
    """Tells one of accelerate's trackers. stage: the stage's folder. settings: what is shown beside the run."""

    def __init__(self, name: TrackerName, stage: Path, settings: Mapping[str, object]) -> None:
        self.name, self.stage = name, stage
        self.run: GeneralTracker | None = None
        self.caught_up = False
        self._guarded(self._begin, run_name(stage), settings)

    def _begin(self, run: RunName, settings: Mapping[str, object]) -> None:
        known = self._marks().get(self.name)
        self.mark = Mark(**known) if known else Mark(run=uuid.uuid4().hex)
        opened = _opened(self.name, run, self.mark, resumed=known is not None)
        opened.start()
        self.run = opened
        if self.name == "mlflow":
            self.mark.run = str(opened.tracker.info.run_id)
        if known is None:
            if self.name != "tensorboard":  # which would make a run of its own of them
                opened.store_init_configuration(dict(settings))
            self._keep()
        else:
            self.mark.last |= _told(self.name, run, opened)

    def logged(self, row: Mapping[str, object]) -> None:
        """See Callback.logged. First comes what the tracker was not told before a kill."""
        self._tell([row] if self.caught_up else read_metrics(self.stage / METRICS))

    def ended(self) -> None:
        """See Callback.ended."""
        if self.run is not None and not self.caught_up:
            self._tell(read_metrics(self.stage / METRICS))
        if self.run is not None:
            self._guarded(self.run.finish)

    def _tell(self, rows: Sequence[Mapping[str, object]]) -> None:
        self.caught_up = True
        for each in rows:
            kind = EVALUATION if any(key.startswith("eval_") for key in each) else TRAINING
            step = int(str(each["step"]))
            if step > self.mark.last.get(kind, -1) and self.run is not None:
                self._guarded(self.run.log, numbers(each), step=step)
                self.mark.last[kind] = step
        self._keep()

    def _marks(self) -> JsonObject:
        file = self.stage / MARKS
        return read_json(file, f"Remove {file}.") if file.is_file() else {}

    def _keep(self) -> None:
        if self.run is not None:
            write_json(self.stage / MARKS, {**self._marks(), self.name: asdict(self.mark)})

    def _guarded(self, do: Callable[..., object], *args: object, **named: object) -> None:
        """Whatever goes wrong in a tracker ends the tracker, and not the run."""
        try:
            with redirect_stdout(sys.stderr):  # some of them print there what is no result
                do(*args, **named)
        except Exception as error:
            self.run = None
            warn(f"{self.name} failed and is told nothing more ({first_line(error)})", about=f"tracker {self.name}")


def numbers(row: Mapping[str, object]) -> dict[str, float]:
    """The row's metrics that are finite numbers, without the step, under the headings that trackers group by."""
    kind = EVALUATION if any(key.startswith("eval_") for key in row) else TRAINING
    return {
        f"{kind}/{key.removeprefix('eval_')}": float(value)
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def _opened(name: TrackerName, run: RunName, mark: Mark, resumed: bool) -> GeneralTracker:
    """accelerate's tracker, of a new run or of the one that it was told of before."""
    if name == "tensorboard":
        return TensorBoardTracker(run.group, logging_dir=str(run.folder))
    if name == "trackio":
        again = "allow" if resumed else "never"
        return TrackioTracker(run.project, name=run.name, group=run.group, resume=again, auto_log_cpu=False)
    if name == "wandb":
        return WandBTracker(run.project, id=mark.run, name=run.name, group=run.group, resume="allow")
    same = {"run_id": mark.run} if resumed else {}
    return MLflowTracker(run.project, run_name=run.name, tags={"stage": run.group}, **same)


def _told(name: TrackerName, run: RunName, opened: GeneralTracker) -> dict[str, int]:
    """Of a run that goes on, the last step of each kind that the tracker has by its own reader: some are told
    in batches, of which a kill takes the last. Those without a reader here are trusted with what was said."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run.folder / run.group), size_guidance={"scalars": 0}).Reload()
        steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    elif name == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        rows = SQLiteStorage.get_logs(run.project, run.name, run_id=opened.tracker.id)
        steps = {}
        for row in rows:
            for tag in row:
                steps.setdefault(tag, []).append(int(row["step"]))
    else:
        return {}
    last = dict.fromkeys((TRAINING, EVALUATION), -1)
    for tag, its_steps in steps.items():
        kind = tag.partition("/")[0]
        if kind in last:
            last[kind] = max(last[kind], *its_steps)
    return last


def callbacks_of(trackers: Sequence[TrackerName], stage: Path, settings: Mapping[str, object]) -> list[Callback]:
    """The trackers that a run asked for, in the process that logs."""
    return [Tracker(name, stage, settings) for name in trackers]
