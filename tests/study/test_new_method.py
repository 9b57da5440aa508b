"""A new method is one file and two rows of tables: everything else finds it there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from training.toy import write_model
from trimtab.catalogue import CATALOGUE
from trimtab.methods.table import METHODS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("toy_method.py")
STAGE = {"batch_size": 4, "max_steps": 2, "logging_interval": 1}


def toy(*words: str) -> str:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def test_a_toy_runs_through_a_study_to_the_report(tmp_path: Path) -> None:
    recipe = {
        "name": "toys",
        "model": str(write_model(tmp_path / "model")),
        "methods": ["base", "sft", "toy"],
        "sandbox": {"train_rows": 12, "validation_rows": 4, "test_rows": 4},
        "sft": STAGE,
        "toy": {**STAGE, "push": 0.25},
        "evaluation": {"decoding": {"max_new_tokens": 4}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    said = toy("study", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"))
    assert "Toy push" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["methods"]) == ["base", "sft", "toy"]
    assert {"name": "toy.push", "value": "0.25", "default": "0.5"} in results["provenance"]["settings"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Toy push: a toy&#39;s curves." in page
    assert "#111111" in (tmp_path / "out" / "figures" / "curves_toy.svg").read_text()
    card = (tmp_path / "out" / "seed-0" / "stages" / "toy" / "best" / "README.md").read_text()
    assert "a toy of a method" in card
    assert "Pushes." in toy("--help")
    planned = toy("plan", str(tmp_path / "recipe.yaml"), "--no-measure")
    assert "toy" in planned


def test_every_method_differs_in_colour_and_marker_and_has_its_code() -> None:
    entries = list(CATALOGUE.values())
    assert len({entry.colour for entry in entries}) == len(entries)
    assert len({entry.marker for entry in entries}) == len(entries)
    assert set(METHODS) == {entry.name for entry in entries if entry.driven_by != "nothing"}
    for entry in entries:
        assert entry.starts_from in ("start", *CATALOGUE)
        assert bool(entry.panels) == (entry.driven_by != "nothing"), entry.name


@pytest.mark.parametrize("name", [name for name, binding in METHODS.items() if binding.inherits])
def test_what_a_method_inherits_from_is_a_method(name: str) -> None:
    assert METHODS[name].inherits in METHODS
