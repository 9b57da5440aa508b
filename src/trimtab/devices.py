"""Which device computes, how it is called, and how much memory it took."""

from __future__ import annotations

import platform
import resource
from contextlib import suppress
from pathlib import Path

import torch


def best_device() -> torch.device:
    """CUDA's where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_cpu() -> bool:
    """Whether there is nothing but the CPU."""
    return best_device().type == "cpu"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Products in bf16 where the precision says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def reset_peak_memory() -> None:
    """Starts the count anew, where the system can: on CUDA, and on Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Since the last reset: allocated on CUDA, resident on the CPU. Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes) * (1 if platform.system() == "Darwin" else 1024)
