"""Checkpoints: written aside, synced, renamed; read back exactly.

A checkpoint is a directory `checkpoints/step-00000100` with weights, optimizer, schedule, random
states, data position, the best evaluation so far and the early-stopping counter. A directory under its
final name is whole: what a kill leaves behind has another name, and is removed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.devices import best_device
from trimtab.errors import TrimtabError, first_line
from trimtab.files import SUMS, read_json, write_directory, write_json, written_damage
from trimtab.json_types import JsonObject
from trimtab.training.weights import Weights


class RandomStates(TypedDict):
    """The states of the generators that training may draw from, as torch.save keeps them."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, Tensor, int, int, float]
    """As np.random.get_state gives it, the keys as an int64 tensor."""
    torch: Tensor
    cuda: NotRequired[list[Tensor]]
    """One for each device, where there are any."""
    mps: NotRequired[Tensor]
    """A Mac's GPU's, where it computes."""


def random_states() -> RandomStates:
    """The states of every generator that training may draw from."""
    numpy_state = np.random.get_state(legacy=True)
    assert isinstance(numpy_state, tuple)  # legacy
    kind, keys, place, has_gauss, gauss = numpy_state
    states: RandomStates = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.array(keys, dtype=np.int64)), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if best_device().type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: RandomStates) -> None:
    """Puts the generators back to states that random_states gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, place, has_gauss, next_gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, next_gauss))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and best_device().type == "mps":
        torch.mps.set_rng_state(states["mps"])


def trained_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """What training changes: every weight that has a gradient (tied ones once), and saved buffers."""
    kept = set(model.state_dict(keep_vars=True))
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return trained | {name: b for name, b in model.named_buffers() if name in kept}


WEIGHTS = "model.safetensors"
PARTS = ".metadata"
"""What torch.distributed.checkpoint writes beside each process's part of the weights."""
SUMMED = "summed"
"""In a checkpoint's state: it was written with checksums."""


class Checkpoints:
    """The checkpoints of one stage, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep
        self.again = f"Put it back, or remove {folder}, and the same command starts again from the first step."

    def steps(self) -> list[int]:
        """The optimizer steps that have a checkpoint, in order."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def best_path(self, step: int) -> Path:
        """The folder of the best weights, which lie beside the checkpoints until the end."""
        return self.folder / f"best-{step:08d}"

    def best_damage(self, saved: JsonObject) -> str | None:
        """What is wrong with the weights that a checkpoint calls the best so far."""
        if saved.get("best_step") is None:
            return None
        best = self.best_path(saved["best_step"])
        lacking = "logs" in saved and not (best / SUMS).is_file()  # earlier versions wrote neither
        return written_damage(best) or (f"{best / SUMS} is gone" if lacking else None)

    def copy_best(self, step: int, out: Path) -> None:
        """Copies the best weights to `out`. TrimtabError where they are not what was written."""
        if wrong := written_damage(self.best_path(step)):
            raise TrimtabError(f"{wrong}. {self.again}")
        shutil.copytree(self.best_path(step), out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SUMS))

    def save(self, step: int, weights: Weights, optimizer: torch.optim.Optimizer, state: JsonObject) -> None:
        """Writes a checkpoint aside, syncs it, and renames it; older ones go. Of weights that are shared out the
        main process does, and the others `join` it."""
        model = weights.trained

        def write(folder: Path) -> None:
            kept: JsonObject = {"random": random_states()}
            if weights.shared_out:
                from trimtab.training.sharing import write_parts

                write_parts(folder, trained_state(model), model, optimizer)
            else:
                save_file(trained_state(model), folder / WEIGHTS)
                kept["optimizer"] = optimizer.state_dict()
            torch.save(kept, folder / "optimizer.pt")
            write_json(folder / "state.json", {"step": step, **state, SUMMED: True})

        write_directory(self.path(step), write, sums=True)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))

    def join(self, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
        """Writes this process's part of the checkpoint that the main process saves."""
        from trimtab.training.sharing import write_parts

        write_parts(None, trained_state(weights.trained), weights.trained, optimizer)

    def newest(
        self,
        needs: Callable[[JsonObject], str | None] = lambda state: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> JsonObject | None:
        """The newest whole checkpoint's state; None when there is none. Damaged ones are passed over, with a word,
        and removed; TrimtabError where none is whole.

        needs: what is wrong, in words, with what else a checkpoint needs.
        """
        bad: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            state, wrong = self._read(step)
            wrong = wrong or needs(state)
            if wrong is None:
                for other, reason in bad:
                    say(f"{reason}: going on from the checkpoint before it, of step {step}")
                    shutil.rmtree(self.path(other))
                return state
            bad.append((step, wrong))
        if bad:
            raise TrimtabError(f"{bad[0][1]}. No earlier checkpoint is whole. {self.again}")
        return None

    def _read(self, step: int) -> tuple[JsonObject, str | None]:
        """A checkpoint's state, and what is wrong with it."""
        folder = self.path(step)
        if wrong := written_damage(folder):
            return {}, wrong
        try:
            state = read_json(folder / "state.json", "")
        except TrimtabError as error:
            return {}, str(error).strip(" .")
        # Those of earlier versions have no checksums.
        lacking = state.pop(SUMMED, False) and not (folder / SUMS).is_file()
        return state, f"{folder / SUMS} is gone" if lacking else None

    def load(self, step: int, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
        """Reads weights, moments and random states of a step back into place, whoever wrote them: one process, or
        any number of them."""
        folder, model = self.path(step), weights.trained
        parts = (folder / PARTS).is_file()
        try:
            saved_weights = {} if parts else load_file(folder / WEIGHTS)
            with torch.serialization.safe_globals([]):
                saved = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
            if parts:
                from trimtab.training.sharing import read_parts

                read_parts(folder, trained_state(model), model, optimizer)
        except Exception as error:  # the libraries raise whatever they like
            raise TrimtabError(f"{folder}: cannot be read: {first_line(error)}. {self.again}") from error
        if not parts:
            if saved_weights.keys() != trained_state(model).keys():
                raise TrimtabError(
                    f"{folder}: holds other weights than this model trains. Remove the stage's folder."
                )
            _take(weights, optimizer, saved_weights, saved["optimizer"])
        set_random_states(saved["random"])


def _take(
    weights: Weights, optimizer: torch.optim.Optimizer, whole: dict[str, Tensor], moments: JsonObject
) -> None:
    """Weights and moments that one process wrote, into a model that may be shared out among several."""
    if weights.shared_out:
        from trimtab.training.sharing import laid_like

        held = [p for group in optimizer.param_groups for p in group["params"]]
        of_each = {
            place: {name: laid_like(held[place], x) for name, x in of.items()}
            for place, of in moments["state"].items()
        }
        moments = {**moments, "state": of_each}
        whole = {name: laid_like(weight, whole[name]) for name, weight in trained_state(weights.trained).items()}
    with torch.no_grad():
        for name, weight in trained_state(weights.trained).items():
            weight.copy_(whole[name])
    optimizer.load_state_dict(moments)
