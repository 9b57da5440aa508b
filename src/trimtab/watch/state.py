"""What a folder says of the runs in it: files that they write anyway. It is read, never written to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from trimtab.errors import TrimtabError
from trimtab.folder_lock import LOCK
from trimtab.recipe import Recipe
from trimtab.study.seeds import recipe_of_seed
from trimtab.study.stages import stages_of

State = Literal["waits", "runs", "stands still", "done"]
QUIET = 120.0
"""Seconds without a sign of life after which a run that is not done is said to stand still."""
SIGNS = (LOCK, "metrics.jsonl", "generations.jsonl", "pairs.jsonl", "scores.jsonl", "checkpoints", "samples")
"""What a run that goes on writes to, in its own folder."""


@dataclass(frozen=True)
class Curve:
    """A metric by optimizer step: [(step, value)], steps ascending."""

    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class StageState:
    """How far one stage or evaluation is.

    title: with its training seed, where there are several. share: of the work, from 0 to 1; None where nobody
    knows. step: optimizer steps taken. seconds: of training so far. left: seconds, if it goes on like that. quiet:
    seconds since its last sign of life.
    """

    title: str
    state: State
    share: float | None = None
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    left: float | None = None
    quiet: float | None = None
    curves: list[Curve] = field(default_factory=list)

    def last(self, name: str) -> float | None:
        """The newest value of a metric; None where there is none."""
        return next((curve.points[-1][1] for curve in self.curves if curve.name == name and curve.points), None)


@dataclass(frozen=True)
class RunState:
    """A folder's stages, in the order of the study. finished: whether the study's results are there."""

    name: str
    stages: list[StageState]
    finished: bool


def look_at(folder: Path, now: float | None = None) -> RunState:
    """Reads a study's or a stage's folder. now: seconds since the epoch. TrimtabError where it is neither."""
    now = time.time() if now is None else now
    if (folder / "stage.json").is_file():
        stage = _stage(folder, folder.name, now)
        return RunState(folder.name, [stage], stage.state == "done")
    if not (folder / "recipe.yaml").is_file():
        raise TrimtabError(f"{folder}: is neither a study's folder nor a stage's.")
    return RunState(folder.name, list(_of_study(folder, now)), (folder / "results.json").is_file())


def _of_study(folder: Path, now: float) -> Iterator[StageState]:
    """Everything that the recipe asks for, and folders that are there besides."""
    seeds = sorted({int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*")})
    named = _json(folder / "environment.json").get("seeds") or []
    seeds = list(dict.fromkeys([*map(int, named), *seeds]))
    for seed in seeds:
        place = folder / f"seed-{seed}"
        prefix = f"seed {seed}: " if len(seeds) > 1 else ""
        trained, asked = _planned(folder, seed)
        there = [path.name for path in sorted((place / "stages").glob("*")) if (path / "stage.json").is_file()]
        for name in dict.fromkeys([*trained, *there]):
            yield _stage(place / "stages" / name, prefix + name, now)
        answered = [path.name for path in sorted((place / "evaluation").glob("*"))]
        for name in dict.fromkeys([*asked, *answered]):
            yield _evaluation(place / "evaluation" / name, f"{prefix}answers of {name}", now)


def _planned(folder: Path, seed: int) -> tuple[list[str], list[str]]:
    """The stages of a training seed, and the methods whose answers are measured for it."""
    try:
        recipe = Recipe.model_validate(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
        stages = stages_of(recipe_of_seed(recipe, seed))
    except (ValidationError, TrimtabError, OSError, yaml.YAMLError):  # of another version: what is there is shown
        return [], []
    return [stage.name for stage in stages], [name for name in recipe.methods if name != "base"]


def _stage(folder: Path, title: str, now: float) -> StageState:
    rows = _rows(folder / "metrics.jsonl")
    curves = _curves(rows)
    trained = [row for row in rows if "seconds" in row]
    last = trained[-1] if trained else {}
    step, seconds = int(last.get("step", 0)), float(last.get("seconds", 0.0))
    done = (folder / "done.json").is_file()
    share = 1.0 if done else _share(_json(folder / "stage.json").get("settings") or {}, last)
    left = seconds * (1 - share) / share if share and not done else None
    quiet = _quiet(folder, now)
    return StageState(
        title, _state(done, quiet), share, step, seconds, int(last.get("num_tokens", 0)), left, quiet, curves
    )


def _share(settings: dict[str, Any], last: dict[str, Any]) -> float | None:
    if not last:
        return None
    if settings.get("max_steps"):
        return min(1.0, float(last["step"]) / float(settings["max_steps"]))
    epochs = float(settings.get("epochs") or 0)
    return min(1.0, float(last["epoch"]) / epochs) if epochs and "epoch" in last else None


def _evaluation(folder: Path, title: str, now: float) -> StageState:
    done = (folder / "inputs.json").is_file()
    file, answers = folder / "generations.jsonl", 0
    if file.is_file():
        with file.open("rb") as lines:
            answers = sum(1 for _ in lines)
    quiet = _quiet(folder, now)
    return StageState(title, _state(done, quiet), 1.0 if done else None, answers, quiet=quiet)


def _state(done: bool, quiet: float | None) -> State:
    if done:
        return "done"
    if quiet is None:
        return "waits"
    return "runs" if quiet < QUIET else "stands still"


def _quiet(folder: Path, now: float) -> float | None:
    """Seconds since something was written; None where nothing was."""
    times = [path.stat().st_mtime for path in (folder / name for name in SIGNS) if path.exists()]
    return max(0.0, now - max(times)) if times else None


def _curves(rows: list[dict[str, Any]]) -> list[Curve]:
    """Every metric that is a number."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                points.setdefault(name, []).append((int(row["step"]), float(value)))
    return [Curve(name, its) for name, its in points.items()]


def _rows(file: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that another process writes."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # half a line
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
