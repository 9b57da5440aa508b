"""Other people's data through the real commands: what is malformed leaves one line and no folder that a rerun would
trust; what has pairs trains."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import Commands, Done
from data.malformed import CASES, SOURCES, real_rows, write_lines

pytestmark = pytest.mark.slow

SAMPLE = (
    "ultrafeedback: chosen = 7",
    "sharegpt: conversations = []",
    "kto: label = 1",
    "line: opened only",
    "line: 10 MB of one word",
    "file: UTF-16",
    "file: Parquet cut at 0.6",
    "place: loop",
    "place: without_rows",
)
MENDED = ("ultrafeedback: chosen = 7", "file: Parquet cut at 0.6", "place: loop", "place: without_rows")
"""Of these, which are mended and run again: one of each kind of place."""
STEPS = ("learning_rate=1e-3", "batch_size=1", "warmup_steps=0", "data.max_length=512")


@pytest.fixture
def in_turn(tmp_path: Path, commands: Commands) -> Callable[[list[list[str]]], list[Done]]:
    """Runs commands one after the other, each a process; in tmp_path."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("TRIMTAB_DEBUG", None)
    return lambda jobs: [commands.run(*words, cwd=tmp_path, environment=environment) for words in jobs]


def words(method: str, model: Path, data: Path, out: str, *settings: str) -> list[str]:
    given = [part for setting in (*STEPS, *settings) for part in ("--set", setting)]
    return [method, "--model", str(model), "--data", str(data), "--out", out, *given]


def test_malformed_data_and_then_mended(
    shared_data: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path], in_turn: Any
) -> None:
    """Exit code 1, one line, no traceback; then the same command, with whole rows at the same place, trains."""
    model, cases = tiny_model_dir(), [case for case in CASES if case.name in SAMPLE]
    assert len(cases) == len(SAMPLE)
    runs = []
    for i, case in enumerate(cases):
        (tmp_path / f"d{i}").mkdir()
        path = case.make(real_rows(shared_data, case.source), tmp_path / f"d{i}")
        method = "dpo" if i % 2 else "sft"
        runs.append((path, words(method, model, path, f"out{i}", "max_steps=1")))
    for (path, _), case, done in zip(runs, cases, in_turn([w for _, w in runs]), strict=True):
        assert done.returncode == 1, case.name
        assert done.stdout == ""
        assert done.stderr.startswith("error: "), case.name
        assert done.stderr.count("\n") == 1
        assert path.name in done.stderr
    for i in range(len(runs)):
        assert not (tmp_path / f"out{i}" / "done.json").exists()
        assert not (tmp_path / f"out{i}" / "best").exists()
    again = [i for i, case in enumerate(cases) if case.name in MENDED]
    for i in again:
        mend(real_rows(shared_data, "ultrafeedback", 3), runs[i][0])
    for i, done in zip(again, in_turn([runs[i][1] for i in again]), strict=True):
        assert (done.returncode, done.stdout) == (0, f"Model: out{i}/best\n"), done.stderr
        rows = json.loads((tmp_path / f"out{i}" / "data.json").read_text())["train"]
        assert rows["rows"] == rows["used"] + sum(rows["dropped"].values()) == 3


def mend(rows: list[dict[str, Any]], path: Path) -> None:
    """Whole rows in place of what was there, in the form that the name promises."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
        write_lines(rows, path / "train.jsonl")
        return
    path.unlink()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_lines(rows, path)


def test_real_pairs_of_every_layout_train(
    shared_data: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path], in_turn: Any
) -> None:
    """Ten steps of DPO on real rows; KTO's labels are one clear line, and paired on request where prompts agree."""
    model = tiny_model_dir()
    paths = {
        name: write_lines(real_rows(shared_data, name, 8), tmp_path / f"{name}.jsonl")
        for name in ("ultrafeedback", "sharegpt", "hh", "kto")
    }
    both = [
        {"prompt": f"p{i}", "completion": text, "label": label}
        for i in range(3)
        for text, label in (("Yes.", True), ("No.", False))
    ]
    alone = {"prompt": "q", "completion": "Hm.", "label": True}
    labelled = write_lines([*both, alone], tmp_path / "labelled.jsonl")
    jobs = [words("dpo", model, paths[name], name, "max_steps=10") for name in paths]
    jobs.append(words("dpo", model, labelled, "labelled", "max_steps=2", "data.pair_labels=true"))
    *trained, refused, paired = in_turn(jobs)
    assert [done.returncode for done in trained] == [0, 0, 0]
    for name in ("ultrafeedback", "sharegpt", "hh"):
        assert (tmp_path / name / "best" / "model.safetensors").is_file()
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 10
    assert refused.returncode == 1
    *_, told = refused.stderr.splitlines()  # a warning about the tokenizer comes before
    assert told.startswith("error: kto.jsonl:1: a completion with a label (KTO; ")
    assert refused.stderr.count("error: ") == 1
    assert paired.returncode == 0
    counts = json.loads((tmp_path / "labelled" / "data.json").read_text())
    assert (counts["train"]["used"], counts["unpaired_labels"]) == (3, 1)


def test_the_sample_is_of_the_real_files(shared_data: Path) -> None:
    assert all((shared_data / "data" / path).is_file() for path in SOURCES.values())
