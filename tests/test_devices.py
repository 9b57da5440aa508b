"""The processor: which products are fast, memory that is kept, threads that wait."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from trimtab import devices
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.settings import resolve_precision


@pytest.mark.parametrize(
    ("tiles", "instructions", "ratio", "expected"),
    [
        (True, True, 0.1, "bf16"),
        (False, True, 2.4, "bf16"),
        (False, True, 1.1, "float32"),
        (False, True, 0.5, "float32"),
        (False, False, 9.9, "float32"),
    ],
)
def test_auto_takes_what_is_fast(
    tiles: bool, instructions: bool, ratio: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ratio: float32's time of a product by bf16's. It is asked for only where the processor alone does not say."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(devices, "_product_time", lambda dtype: ratio if dtype == torch.float32 else 1.0)
    devices.has_fast_bf16.cache_clear()
    try:
        assert resolve_precision("auto", torch.device("cpu")) == expected
        assert resolve_precision("float32", torch.device("cpu")) == "float32"
    finally:
        devices.has_fast_bf16.cache_clear()


FAULTS = """
import resource, torch
from trimtab.devices import keep_freed_memory
{call}
def step():
    return float(torch.ones(2**24).sum())  # 64 MiB, 16,384 pages
for _ in range(10): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    """Five tensors of 64 MiB, one after the other: mapped anew, their pages are cleared five times."""

    def faults(call: str) -> int:
        code = FAULTS.format(call=call)
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        return int(run.stdout)

    # Pages may be huge ones, of 2 MiB: 32 a tensor.
    assert faults("keep_freed_memory()") < faults("") / 10


KEPT = """
import os, torch
from trimtab.devices import keep_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return os.sysconf("SC_PAGE_SIZE") * int(file.read().split()[1])
keep_freed_memory()
before = resident()
small, last = [torch.ones(2**18) for _ in range(256)], torch.ones(2**18)  # 256 MiB; the last holds them in the heap
del small
kept = resident() - before
keep_freed_memory()
print(kept // 2**20, (resident() - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_a_stage_left_goes_back_before_the_next() -> None:
    run = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    kept, left = map(int, run.stdout.split())
    assert kept > 240
    assert left < 60


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_waiting_threads_spin_briefly_unless_told(given: dict[str, str], expected: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
    code = "import trimtab, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == [expected, "False"]


@pytest.mark.parametrize(("given", "cpu", "expected"), [(None, True, 1024), (None, False, 4096), (64, True, 64)])
def test_the_tokens_of_a_pass(given: int | None, cpu: bool, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "on_cpu", lambda: cpu)
    assert SFTSettings(learning_rate=1, token_budget=given).pass_tokens == expected


def test_a_tiny_model_takes_one_thread_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A larger model after it in the same process has all that the process was given."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, cpu = torch.get_num_threads(), torch.device("cpu")
    try:
        torch.set_num_threads(2)
        assert devices.choose_threads(cpu, tiny=False) == 2
        assert capsys.readouterr() == ("", "")
        devices.set_threads(devices.choose_threads(cpu, tiny=True))
        assert torch.get_num_threads() == 1
        assert "1 thread of 2: " in "".join(capsys.readouterr())
        assert devices.choose_threads(cpu, tiny=False) == 2
        torch.set_num_threads(3)
        assert devices.choose_threads(cpu, tiny=False) == 3, "set by somebody else since"
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert devices.choose_threads(cpu, tiny=True) == 3, "asked for"
        assert devices.choose_threads(torch.device("cuda"), tiny=True) == 3, "the device computes"
    finally:
        torch.set_num_threads(before)


def test_memory_goes_back_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, released = [1000.0], []
    monkeypatch.setattr(devices.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(devices, "_released", [1000.0])
    monkeypatch.setattr(devices, "release_freed_memory", lambda: released.append(clock[0]))
    for seconds in (0, 30, 59, 61, 61, 100, 122, 122):
        clock[0] = 1000.0 + seconds
        devices.release_now_and_then()
    assert released == [1061.0, 1122.0]
