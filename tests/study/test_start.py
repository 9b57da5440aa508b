"""What is wrong with a command is told before anything is loaded that takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab

HEAVY = ("torch", "transformers", "accelerate", "scipy", "matplotlib", "pandas", "datasets", "peft")
PROGRAM = f"""
import sys
from trimtab.cli import main
sys.argv[0] = "trimtab"
try:
    main()
finally:
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(trimtab.__file__).parents[1])}
STAGE = ("--model", "none", "--data", "none.jsonl", "--out", "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--help",), "Align small language models"),
        (("sft", *STAGE, "--set", "data.max_lenght=9"), "unknown setting 'max_lenght'. Did you mean 'max_length'?"),
        (("grpo", *STAGE, "--set", "data.max_length=0"), "max_length: Input should be greater than 1"),
        (("dpo", *STAGE, "--set", "beta"), "expected key=value"),
        (("study", "none.yaml"), "recipe none.yaml: no such file"),
        (("plan", "none.yaml"), "recipe none.yaml: no such file"),
        (("study", "quickstart", "--seeds", "one"), "expected whole numbers"),
    ],
)
def test_what_is_wrong_is_told_before_libraries_are_loaded(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert said in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_training_loads_no_library_of_reports() -> None:
    """matplotlib, pandas and scipy.stats are for reports and audits, datasets and peft for those who ask."""
    modules = ("matplotlib", "pandas", "scipy.stats", "datasets", "peft")
    program = f"import sys, trimtab.study.run; print(*(name for name in {modules} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert done.stdout.split() == []
