"""How a stage ends: what it wrote down of itself, done.json the last."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator

from trimtab import __version__
from trimtab.training.card import CARD, stage_card
from trimtab.training.checkpoint import write_json
from trimtab.training.loop import Finished
from trimtab.training.peak import peak_memory
from trimtab.training.schedule import TrainingSettings

WARNINGS = "warnings.json"
"""Of a stage that goes on; when it is done, they are in done.json."""


def mark_done(
    out: Path,
    key: str,
    finished: Finished,
    settings: TrainingSettings,
    acc: Accelerator,
    known: dict[str, Any],
) -> None:
    """Writes the model's card, then done.json, the last. known: what the run knows beside how it ended."""
    done = {
        "key": key,
        **vars(finished),
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "device": str(acc.device),
        "processes": acc.num_processes,
        "peak_memory_bytes": peak_memory(acc.device),
        "python": platform.python_version(),
        "versions": {"trimtab": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        **known,
    }
    (out / "best" / CARD).write_text(stage_card(out, done), encoding="utf-8")
    write_json(out / "done.json", done)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    (out / WARNINGS).unlink(missing_ok=True)  # done.json has them
