"""Checkpoints: written aside, synced, renamed; read back exactly.

A checkpoint is a directory `checkpoints/step-00000100` with weights, optimizer, schedule, random
states, data position, the best evaluation so far and the early-stopping counter. A directory under its
final name is whole: what a kill leaves behind has another name, and is removed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from trimtab.errors import TrimtabError


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_directory(target: Path, write: Callable[[Path], object]) -> None:
    """Has `write` fill a directory aside, syncs it, and renames it to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    write(aside)
    allowed = aside.stat().st_mode & 0o666  # what the umask leaves: safetensors keeps files to their owner
    for path in sorted(aside.rglob("*")):
        if path.is_file():
            path.chmod(allowed)
        sync(path)
    sync(aside)
    if target.exists():
        # Another kill between these two lines leaves no target: the caller's inputs are still there.
        shutil.rmtree(target)
    aside.rename(target)
    sync(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(aside)
    aside.replace(path)


def random_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (
            numpy_state[0],
            torch.from_numpy(np.array(numpy_state[1], dtype=np.int64)),
            *numpy_state[2:],
        ),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: every weight that has a gradient (tied ones once), and saved buffers."""
    kept = set(model.state_dict(keep_vars=True))
    found = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return found | {name: b for name, b in model.named_buffers() if name in kept}


class Checkpoints:
    """The checkpoints of one stage, newest kept."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, model: torch.nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        def write(folder: Path) -> None:
            save_file(trained_state(model), folder / "model.safetensors")
            torch.save({"optimizer": optimizer.state_dict(), "random": random_states()}, folder / "optimizer.pt")
            (folder / "state.json").write_text(json.dumps({"step": step, **state}, indent=2), encoding="utf-8")

        write_directory(self.path(step), write)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))

    def state(self) -> dict[str, Any] | None:
        """The newest checkpoint's state; None when there is none."""
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover)
        steps = self.steps()
        if not steps:
            return None
        loaded: dict[str, Any] = json.loads((self.path(steps[-1]) / "state.json").read_text(encoding="utf-8"))
        return loaded

    def load(self, step: int, model: torch.nn.Module, optimizer: Any) -> None:
        folder = self.path(step)
        saved_weights, ours = load_file(folder / "model.safetensors"), trained_state(model)
        if saved_weights.keys() != ours.keys():
            raise TrimtabError(f"{folder}: holds other weights than this model trains. Remove the stage's folder.")
        with torch.no_grad():
            for name, weight in ours.items():
                weight.copy_(saved_weights[name])
        with torch.serialization.safe_globals([]):
            saved = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
        optimizer.load_state_dict(saved["optimizer"])
        set_random_states(saved["random"])
