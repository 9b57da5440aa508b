"""Tests have the same names in every process: two that share them out could not start else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def names(seed: str) -> list[str]:
    """All tests, as a process finds them whose sets are in the order of this seed."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "", "-p", "no:cacheprovider"]
    found = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300,
        cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:]
    return [line for line in found.stdout.splitlines() if "::" in line]


def test_no_name_hangs_on_the_order_of_a_set() -> None:
    first, second = names("1"), names("2")
    assert len(first) > 4000
    assert first == second
