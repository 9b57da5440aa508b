"""What a task of a study takes of a machine: settings that no result depends on."""

from __future__ import annotations

from pydantic import Field

from trimtab.data.settings import Settings


class ResourceSettings(Settings):
    """What every stage and evaluation takes where a study is spread over machines (`--ray`)."""

    cpus: int = Field(1, gt=0, le=4096)
    """Processor cores, and the threads that it computes on."""
    gpus: float = Field(0.0, ge=0, le=64)
    """GPUs; a part of one, such as 0.5, has two tasks share it."""
    memory: float | None = Field(None, gt=0, le=10**6)
    """GiB of memory; null: it is not asked for. `trimtab plan` says what a stage takes."""
