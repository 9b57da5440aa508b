"""Device, processes and precision of a stage, and how its processes share work out."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from trimtab.devices import on_cpu, say_device
from trimtab.training.schedule import TrainingSettings

Item = TypeVar("Item")


def share_of(accelerator: Accelerator, count: int) -> range:
    """The places, of `count`, that this process works on: every n-th, where there are n processes."""
    return range(accelerator.process_index, count, accelerator.num_processes)


def gather_items(accelerator: Accelerator, places: range, items: Sequence[Item]) -> list[Item]:
    """The items of every process in the order of their places. places: of this process's items."""
    if accelerator.num_processes == 1:
        return list(items)
    everyones = gather_object(list(zip(places, items, strict=True)))
    return [item for _, item in sorted(everyones, key=itemgetter(0))]


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """Sets up device, processes and precision, which must no longer be auto.

    On the CPU the algorithms are deterministic, so that a resumed run gives bit-identical weights.
    """
    torch.manual_seed(settings.seed)
    AcceleratorState._reset_state()  # each stage has its own precision
    if on_cpu():
        torch.use_deterministic_algorithms(True)
        # Every tensor here is written before it is read; filling each first costs a third of the time.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    accelerator = Accelerator(mixed_precision={"float32": "no", "bf16": "bf16"}[settings.precision], cpu=on_cpu())
    say_device(accelerator.device, settings.precision)
    return accelerator
