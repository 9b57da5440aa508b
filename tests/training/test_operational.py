"""Settings that change no result are no part of what a folder is for, and a change of one is written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.command_settings import stage_settings
from trimtab.errors import TrimtabError
from trimtab.files import read_json, write_json
from trimtab.training.folder import inputs_key, open_stage_folder, resolve_auto
from trimtab.training.operational import without_operational

INPUTS: dict[str, Any] = {
    "stage": "grpo",
    "version": 1,
    "settings": {
        "learning_rate": 1e-3, "token_budget": 4096, "gradient_checkpointing": False, "logging_interval": 10,
        "checkpoint_interval": None, "sample_interval": None, "seed": 1,
        "sampling": {"temperatures": (1.0,), "max_new_tokens": 8, "batch_size": 128, "vllm": {"eager": False}},
        "rewards": [{"kind": "classifier", "weight": 1.0, "token_budget": 8192, "model": "m"}],
    },
    "model": "abc",
}  # fmt: skip
SAME = [
    ("token_budget", 64), ("gradient_checkpointing", True), ("logging_interval", 1), ("checkpoint_interval", 3),
    ("sample_interval", 2), ("sampling.batch_size", 4), ("sampling.vllm", {"eager": True}),
    ("rewards", [{"kind": "classifier", "weight": 1.0, "token_budget": 1, "model": "m"}]),
]  # fmt: skip
OTHER = [
    ("learning_rate", 1e-4), ("seed", 2), ("sampling.max_new_tokens", 9),
    ("rewards", [{"kind": "classifier", "weight": 2.0, "token_budget": 8192, "model": "m"}]),
]  # fmt: skip


def with_setting(name: str, value: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(INPUTS))
    part, _, last = name.rpartition(".")
    (made["settings"][part] if part else made["settings"])[last] = value
    return made


def begin(folder: Path, inputs: dict[str, Any]) -> None:
    assert not open_stage_folder(folder, inputs)
    (folder / "metrics.jsonl").touch()


@pytest.mark.parametrize(("name", "value"), SAME)
def test_goes_on_with_another(name: str, value: Any, tmp_path: Path) -> None:
    begin(tmp_path, INPUTS)
    assert not open_stage_folder(tmp_path, with_setting(name, value))
    write_json(tmp_path / "done.json", {"key": inputs_key(INPUTS)})
    assert open_stage_folder(tmp_path, with_setting(name, value))


@pytest.mark.parametrize(("name", "value"), OTHER)
def test_is_another_run_with_another(name: str, value: Any, tmp_path: Path) -> None:
    begin(tmp_path, INPUTS)
    with pytest.raises(TrimtabError, match=rf"holds another run \(its settings\.{name.partition('.')[0]} differ"):
        open_stage_folder(tmp_path, with_setting(name, value))


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its key was of all settings, and its files had no checksums."""
    (tmp_path / "stage.json").write_text(json.dumps({"key": "old", "trimtab": "0.1", **INPUTS}))
    (tmp_path / "metrics.jsonl").touch()
    assert not open_stage_folder(tmp_path, with_setting("token_budget", 64))
    (tmp_path / "done.json").write_text('{"key": "old"}')
    assert open_stage_folder(tmp_path, with_setting("token_budget", 64))
    with pytest.raises(TrimtabError, match="holds another run"):
        open_stage_folder(tmp_path, with_setting("seed", 2))


def test_a_change_is_written_down(tmp_path: Path) -> None:
    settings, _ = stage_settings("sft", "rows.jsonl", None, ["precision=float32"], [])
    assert resolve_auto(tmp_path, settings, "").precision == "float32"
    (tmp_path / "checkpoints" / "step-00000012").mkdir(parents=True)
    less = settings.model_copy(update={"token_budget": 64})
    for _ in range(2):
        resolve_auto(tmp_path, less, "")
    assert read_json(tmp_path / "settled.json", "")["changed"] == [
        {"step": 12, "setting": "token_budget", "from": None, "to": 64}
    ]
    (tmp_path / "settled.json").unlink()
    with pytest.raises(TrimtabError, match=r"settled\.json: is gone.*Put it back, or remove"):
        resolve_auto(tmp_path, less, "")


def test_labels_that_come_later_make_no_other_study() -> None:
    studied = {
        "methods": ["dpo"],
        "evaluation": {"decoding": {"strategy": "greedy"}, "clusters": None, "labels": None},
    }
    labelled = {**studied, "evaluation": {**studied["evaluation"], "labels": "votes.jsonl"}}  # type: ignore[dict-item]
    assert without_operational(labelled) == without_operational(studied)
    other = {**studied, "evaluation": {**studied["evaluation"], "clusters": "document"}}  # type: ignore[dict-item]
    assert without_operational(other) != without_operational(studied)
