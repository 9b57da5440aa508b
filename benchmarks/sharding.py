"""What a process holds while it trains, alone and where two share the weights out: the shape of Qwen2.5-0.5B.

    python -m benchmarks.sharding --tokenizer FOLDER --data pairs.jsonl

Two steps of SFT on four rows, by one process, and by two on the CPU with `sharding: fsdp2`. Of each process: bytes
of its weights, gradients and moments, counted behind the last step, and the most memory that it took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.training import SHAPES, fitting, write_model
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trimtab.data.splits import DataSettings
from trimtab.devices import peak_memory
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.training import stage
from trimtab.training.loop import Loop
from trimtab.training.run_state import Finished
from trimtab.training.stage import run_stage

HELD: dict[str, int] = {}
PLACE = "HELD_IN"
"""The variable of the environment that names the folder; set, this is one of the processes that train."""


def here(tensors: Iterable[Any]) -> int:
    """Bytes of tensors, or of this process's parts of them. What several are views of counts once: the gradients of
    a layer lie in one piece of memory."""
    parts = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


class Watched(Loop):
    """Writes down what the process held."""

    def run(self) -> Finished:
        finished = super().run()
        weights = list(self.weights.trained.parameters())
        moments = [x for state in self.optimizer.state.values() for name, x in state.items() if name != "step"]
        HELD["weights"], HELD["moments"] = here(weights), here(moments)
        HELD["peak"] = int(peak_memory(self.accelerator.device) or 0)
        place = Path(os.environ[PLACE]) / f"{self.accelerator.process_index}.json"
        place.write_text(json.dumps(HELD))
        return finished


def note_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Right before a step all gradients are there."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    HELD["gradients"] = here(weight.grad for weight in weights if weight.grad is not None)


def train(model: str, rows: str, out: str, sharding: str) -> None:
    """What each process runs."""
    register_optimizer_step_pre_hook(note_gradients)
    settings = SFTSettings(
        batch_size=4, max_steps=2, learning_rate=1e-5, warmup_steps=0, precision="float32", sharding=sharding,
        best_metric="step", best_is="highest",
    )  # fmt: skip
    with patch.object(stage, "Loop", Watched):
        data = DataSettings(train=rows, validation_rows=2, max_length=512)
        run_stage("sft", SFT, settings, data, model, Path(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--tokenizer", required=True, help="a folder")
    parser.add_argument("--data", required=True, help="pairs, as JSON lines")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = write_model(words.shape, words.tokenizer, place / "model")
        rows = fitting(words.data, model, 512, 6, place / "rows.jsonl")
        alone = None
        for processes in (1, 2):
            held = place / str(processes)
            held.mkdir()
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
            given = [str(model), str(rows), str(held / "out"), "fsdp2" if processes > 1 else "none"]
            command = [sys.executable, *launcher, "-m", "benchmarks.sharding", *given]
            subprocess.run(command, check=True, env=os.environ | {PLACE: str(held), "OMP_NUM_THREADS": "1"})
            for file in sorted(held.glob("*.json")):
                found = json.loads(file.read_text())
                states = sum(found[name] for name in ("weights", "gradients", "moments"))
                alone = alone or states
                parts = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in found.items())
                print(f"{processes}, {file.stem}: states {states / 1e6:,.0f} MB, {states / alone:.3f}; {parts}")


if __name__ == "__main__":
    train(*sys.argv[1:]) if PLACE in os.environ else main()
