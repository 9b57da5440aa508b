"""Which device computes, how it is called, and how much memory it took."""

from __future__ import annotations

import ctypes
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


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of malloc.h, for mallopt."""


def keep_freed_memory() -> None:
    """Has the C library keep the memory of freed tensors for the next ones, where it is glibc.

    By default it maps every large tensor anew and gives it back: the system then clears each page again in every
    step. Without effect on results. Later calls change nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
