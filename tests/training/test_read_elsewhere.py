"""What is saved, read by transformers 4.57.6 and 5 as a stranger would: the same numbers, tokens and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training.layouts4 import LAYOUTS, train_to_stop, write_layout
from training.stranger import read
from trimtab.study.export import export_model

OVERLAY = Path(sys.prefix) / "transformers4"
END = 2
"""The token that ends a turn."""


@pytest.fixture(scope="module")
def overlay() -> Path:
    """transformers 4.57.6, beside this environment: `make test` puts it there."""
    if not (OVERLAY / "transformers").is_dir():
        reason = f"no transformers 4 in {OVERLAY}: make .venv/transformers4/installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return OVERLAY


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each layout the folder that training started from, and best/."""
    root = tmp_path_factory.mktemp("layouts")
    starts = {layout: write_layout(root / layout, layout) for layout in LAYOUTS}
    return {layout: (start, train_to_stop(start, root / f"{layout}-sft")) for layout, start in starts.items()}


def read_with_4(overlay: Path, out: Path, folders: list[Path]) -> list[dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": str(overlay), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("stranger.py")
    done = subprocess.run([sys.executable, str(script), str(out), *map(str, folders)], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = torch.load(out)
    return found


def test_transformers_4_reads_the_same_model_tokens_and_end(
    overlay: Path, trained: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    bests = [best for _, best in trained.values()]
    exported = export_model(bests[0], tmp_path / "exported")
    theirs = read_with_4(overlay, tmp_path / "found.pt", [*bests, exported])
    for folder, other in zip([*bests, exported], theirs, strict=True):
        ours = read(str(folder))
        assert other["version"] == "4.57.6"
        assert float((ours["logits"] - other["logits"]).abs().max()) <= 1e-4, folder
        assert other["ids"] == ours["ids"]
        assert other["said"] == ours["said"]
        assert ours["said"][-1] == END, "it stops by itself"
        assert len(ours["said"]) < 40
        assert other["ends"] == ours["ends"] == [END, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_of_the_source_is_kept(trained: dict[str, tuple[Path, Path]], layout: str) -> None:
    start, best = trained[layout]
    for name, changed in {
        "config.json": {"eos_token_id": END, "transformers_version": None},
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
        "generation_config.json": {"eos_token_id": [2, 0]},
    }.items():
        before, after = (json.loads((folder / name).read_text()) for folder in (start, best))
        expected = before | changed
        differing = {k: (v, after.get(k)) for k, v in expected.items() if v is not None and after.get(k) != v}
        assert not differing, name
    assert (best / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    assert not (best / "chat_template.jinja").exists(), "the template stays where it came from"
