"""Device, processes and precision of a stage."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from trimtab.training.schedule import TrainingSettings


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """Device, processes and precision, which must be settled.

    On the CPU the algorithms are deterministic, so that a resumed run gives bit-identical weights.
    """
    torch.manual_seed(settings.seed)
    AcceleratorState._reset_state()  # each stage has its own precision
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        torch.use_deterministic_algorithms(True)
        # Every tensor here is written before it is read; filling each first costs a third of the time.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    return Accelerator(mixed_precision={"float32": "no", "bf16": "bf16"}[settings.precision], cpu=on_cpu)
