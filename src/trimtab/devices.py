"""Which device computes, how it is called, and how much memory it took."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.late import torch
from trimtab.notices import say

if TYPE_CHECKING:
    from torch import Tensor


ASKED_FOR_CPU = "ACCELERATE_USE_CPU"
"""accelerate's variable: anything but an empty text, 0, false or no keeps a Mac's GPU out of it."""


def best_device() -> torch.device:
    """CUDA's where there is one, else a Mac's GPU (MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    asked = os.environ.get(ASKED_FOR_CPU, "").lower() not in ("", "0", "false", "no", "n", "f", "off")
    return torch.device("mps" if torch.backends.mps.is_available() and not asked else "cpu")


def name_of(device: torch.device) -> str:
    """What a device is called in reports: CUDA's by its own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    return "Apple GPU (MPS)" if device.type == "mps" else f"CPU ({platform.machine()})"


def say_device(device: torch.device, precision: str) -> None:
    """Says so where a Mac's GPU computes, which trimtab is not tested on."""
    if device.type == "mps":
        say(
            f"computing on the Mac's GPU (MPS) in {precision}, which trimtab's tests have never run on "
            f"({ASKED_FOR_CPU}=1: on the CPU)"
        )


def in_float64(x: Tensor) -> Tensor:
    """In float64, for sums that must be exact: where it is, or on the CPU where its device has none (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def forked_random(device: torch.device) -> Iterator[None]:
    """What is drawn inside, on the CPU or on the device, leaves their generators as they were."""
    on_mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            if on_mps is not None:
                torch.mps.set_rng_state(on_mps)


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
    elif best_device().type == "mps":
        torch.mps.empty_cache()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Since the last reset: allocated on CUDA, resident on the CPU. Bytes.

    MPS keeps no peak: it is what its driver holds now, and that keeps what was freed.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes) * (1 if platform.system() == "Darwin" else 1024)


FAST, PRODUCTS = 1.4, 7
"""How much faster bf16 has to be to be taken, far from what was seen on either side; how often each is timed."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of malloc.h, for mallopt."""


@cache
def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices clearly faster than float32 ones.

    AMX tiles do. With AVX-512's bf16 instructions alone it depends on the processor (seen: 0.5 and 2.4 times as
    fast), so both are timed, for some milliseconds. Without either no product is tried.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and _product_time(torch.float32) > FAST * _product_time(
        torch.bfloat16
    )


def _product_time(dtype: torch.dtype) -> float:
    """The processor's seconds of one product, the best of some: what disturbs it only adds."""
    a, b = torch.ones(2, 512, 512, dtype=dtype)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.thread_time()
        a @ b
        seconds.append(time.thread_time() - started)
    return min(seconds)


_own_threads: dict[str, int] = {}
"""What `set_threads` set, and what the process had before: {"set": …, "given": …}."""


def set_threads(count: int) -> None:
    """Has this process compute on so many threads. `choose_threads` still knows how many it was given."""
    _own_threads.update(given=_given_threads(), set=count)
    torch.set_num_threads(count)


def _given_threads() -> int:
    now = torch.get_num_threads()
    return _own_threads["given"] if _own_threads.get("set") == now else now


def choose_threads(device: torch.device, tiny: bool) -> int:
    """How many threads a stage computes on, said where it is not all that the process was given.

    tiny: one, since several would wait for each other at each of thousands of small products; beside a busy core
    that costs more than it gives. The load of the machine has no say: the number of threads decides the last bits
    of every sum, and the same run must give the same weights.
    """
    given = _given_threads()
    if device.type != "cpu" or not tiny or "OMP_NUM_THREADS" in os.environ or given == 1:
        return given
    say(f"1 thread of {given}: so small a model's products are not worth sharing (OMP_NUM_THREADS=n: n threads)")
    return 1


MINUTE = 60.0
"""Seconds. To clear two gigabytes of pages again takes one or two."""
_released = [time.monotonic()]


def keep_freed_memory() -> None:
    """Has the C library keep the memory of freed tensors for the next ones, where it is glibc.

    By default it maps every large tensor anew and gives it back: the system then clears each page again in every
    step. Without effect on results. What was kept so far goes back first: tensors of another size don't fit into
    it, and one stage after the other would take more.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    gc.collect()  # a model may hang in a circle
    release_freed_memory()
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_now_and_then() -> None:
    """The same in a long loop, a minute after the last time: what is kept fits ever less, since tensors differ in
    size. Of SmolLM2's DPO a process held 5.3 GB after three steps, and 7.9 after fourteen."""
    now = time.monotonic()
    if now - _released[0] > MINUTE:
        _released[0] = now
        release_freed_memory()


def release_freed_memory() -> None:
    """Gives the system back what `keep_freed_memory` kept, before something else needs the room."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
