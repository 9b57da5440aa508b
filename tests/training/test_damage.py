"""Every file of a run's folder, damaged in every way: what comes of it is the same, or it is named with a remedy.

TRIMTAB_ALL_DAMAGES=1 takes all of them; without it every so-manieth, in a fixed order.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from trimtab import cli
from trimtab.notices import collected
from trimtab.training.checkpoint import Checkpoints
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics

ALL = bool(os.environ.get("TRIMTAB_ALL_DAMAGES"))
COMMON = {
    "batch_size": 4, "max_steps": 4, "evaluation_interval": 2, "checkpoint_interval": 1, "logging_interval": 1,
    "learning_rate": 1e-3, "warmup_steps": 0, "precision": "float32", "data.validation_rows": 4,
    "data.max_length": 200, "best_metric": "step", "best_is": "highest",
}  # fmt: skip
OF: dict[str, dict[str, Any]] = {
    "sft": {"sample_interval": 2},
    "dpo": {},
    "grpo": {"samples": 2, "sampling.max_new_tokens": 4, "validation_prompts": 2},
    "online-dpo": {"rounds": 1, "prompts": 8, "samples": 2, "sampling.max_new_tokens": 4},
    "evaluate": {},
}
OWN_CLOCK = {"done.json", "README.md", "measures.json", "report.html", "results.json"}
"""Files that hold times, or are made anew by every command."""
SHOWN = {".svg", ".md", ".tex", ".csv"}
WAYS: dict[str, Callable[[Path], object]] = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size * 2 // 3),
    "flipped": lambda file: flip(file),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


def flip(file: Path) -> None:
    """One bit in the middle: of a digit it makes another digit, mostly."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path, toy_pairs: Path) -> Callable[..., int]:
    reward = tmp_path_factory.mktemp("reward") / "reward.py"
    reward.write_text("def low(completion_ids):\n    return [float(sum(ids) % 7) for ids in completion_ids]\n")

    def run(kind: str, out: Path) -> int:
        rest = OF[kind] if kind == "evaluate" else COMMON | OF[kind]
        if kind == "evaluate":
            rest = {"decoding.max_new_tokens": 4, "precision": "float32", "data.max_length": 200}
        if kind == "online-dpo":
            rest = {k: v for k, v in rest.items() if not k.startswith("best")}
        words = [kind, "--model", str(stopping_model), "--data", str(toy_pairs), "--out", str(out)]
        words += ["--reward", f"{reward}:low"] if kind in ("grpo", "online-dpo") else []
        words += [x for key, value in rest.items() for x in ("--set", f"{key}={value}")]
        # A process says a line once; each command here stands for a process of its own.
        with mock.patch.object(sys, "argv", ["trimtab", *words]), mock.patch.dict(os.environ), collected():
            try:
                cli.main()
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    return run


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., int]) -> Callable[[str, str], Path]:
    """The folder of a command that ended, or that was killed at its third step."""
    root, made = tmp_path_factory.mktemp("pristine"), set()

    def folder(kind: str, state: str) -> Path:
        out = root / f"{kind}-{state}"
        if out not in made:
            made.add(out)
            step = Loop.train_step

            def until(self: Loop, number: int) -> Any:
                if number == 3:
                    raise Killed
                return step(self, number)

            if state == "killed":
                with mock.patch.object(Loop, "train_step", until), pytest.raises(Killed):
                    command(kind, out)
            else:
                assert command(kind, out) == 0
        return out

    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if (p.is_file() and p.name not in OWN_CLOCK and p.suffix in (".safetensors", ".jsonl") and "best" in str(p))
        or p.name in ("pairs.jsonl", "generations.jsonl", "scores.jsonl")
    }


def curves(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = {str(p.relative_to(folder)): read_metrics(p) for p in sorted(folder.rglob("metrics.jsonl"))}
    return {name: [{k: v for k, v in r.items() if k != "seconds"} for r in rows] for name, rows in found.items()}


RUNS = [
    ("sft", "killed"), ("dpo", "killed"), ("dpo", "done"), ("grpo", "killed"), ("online-dpo", "killed"),
    ("online-dpo", "done"), ("evaluate", "done"),
]  # fmt: skip
EVERY = {("evaluate", "done"): 13}


def damages(folder: Path, every: int) -> Iterator[tuple[Path, str]]:
    files = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".svg", ".md", ".tex", ".csv")
    ]
    pairs = [(file.relative_to(folder), way) for file in files for way in WAYS]
    yield from pairs if ALL else pairs[2::every]


@pytest.mark.parametrize(("kind", "state"), RUNS)
def test_nothing_is_silent(
    kind: str,
    state: str,
    command: Callable[..., int],
    pristine: Callable[[str, str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before, out = pristine(kind, state), tmp_path / "run"
    whole = contents(pristine(kind, "done"))
    for place, (file, way) in enumerate(damages(before, EVERY.get((kind, state), 17))):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        intact = (out / file).read_bytes()
        WAYS[way](out / file)
        if (out / file).exists() and (out / file).read_bytes() == intact:
            continue
        capfd.readouterr()
        code = command(kind, out)
        said, what = capfd.readouterr(), f"{place}: {file} {way}"
        assert "Traceback" not in said.err + said.out, what
        if code == 0:
            assert contents(out) == whole, f"{what}: another result\n{said.err}"
            assert curves(out) == curves(pristine(kind, "done")) or file.name in said.err, what
        else:
            last = said.err.strip().splitlines()[-1]
            assert code == 1, what
            assert last.startswith("error: "), what
            assert file.name in last or file.parts[0] in last, f"{what}: {last}"
            assert any(word in last for word in ("Put it back", "remove", "Remove", "Train")), f"{what}: {last}"


def test_a_finished_stage_names_the_count_of_rows_that_is_gone(
    command: Callable[..., int],
    pristine: Callable[[str, str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its last words are made of it."""
    out = tmp_path / "run"
    shutil.copytree(pristine("sft", "done"), out)
    (out / "data.json").unlink()
    capfd.readouterr()
    assert command("sft", out) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "data.json: is not there. Put it back" in said


@pytest.mark.parametrize("way", WAYS)
def test_a_finished_stage_names_its_own_damaged_model(
    way: str,
    command: Callable[..., int],
    pristine: Callable[[str, str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(pristine("sft", "done"), out)
    WAYS[way](out / "best" / "model.safetensors")
    capfd.readouterr()
    assert command("sft", out) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: sft: {out / 'best' / 'model.safetensors'} ")
    assert f"Put it back, or remove {out}, and the same command makes it anew." in said
    (out / "best" / "README.md").write_text("my own card")
    shutil.copy(pristine("sft", "done") / "best" / "model.safetensors", out / "best")
    assert command("sft", out) == 0, "a card may be edited"


def test_the_checkpoint_before_a_damaged_one_is_taken(
    command: Callable[..., int],
    pristine: Callable[[str, str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, step = tmp_path / "run", Loop.train_step

    def until(self: Loop, number: int) -> Any:
        if number == 3:
            raise Killed
        return step(self, number)

    with mock.patch.object(Checkpoints.__init__, "__defaults__", (2,)):
        with mock.patch.object(Loop, "train_step", until), pytest.raises(Killed):
            command("dpo", out)
        flip(out / "checkpoints" / "step-00000003" / "optimizer.pt")
        capfd.readouterr()
        assert command("dpo", out) == 0
    assert "optimizer.pt is not what was written" in (said := capfd.readouterr().err)
    assert "going on from the checkpoint before it, of step 2" in said
    whole = pristine("dpo", "done")
    assert contents(out) == contents(whole)
    assert list(curves(out).values()) == list(curves(whole).values())


def test_leftovers_of_a_killed_run_go(
    command: Callable[..., int], pristine: Callable[[str, str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(pristine("sft", "killed"), out)
    (out / "checkpoints" / ".step-00000004.tmp").mkdir()
    (out / "checkpoints" / ".step-00000004.tmp" / "model.safetensors").touch()
    (out / ".done.json.77.tmp").touch()
    assert command("sft", out) == 0
    assert not list(out.rglob(".*"))
