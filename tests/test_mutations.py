"""Each fault of benchmarks/mutations.toml can still be planted, and its tests are there. No fault is run here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "mutations.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


MODULE = script()
MUTATIONS = MODULE.mutations()


def test_every_fault_can_be_planted_in_one_place_and_is_python() -> None:
    for mutation in MUTATIONS:
        planted = mutation.planted(ROOT)
        if mutation.file.endswith(".py"):
            compile(planted, mutation.file, "exec")


def test_the_tests_named_for_a_fault_exist() -> None:
    for mutation in MUTATIONS:
        assert mutation.tests, mutation.fault
        for name in mutation.tests:
            file, _, function = name.partition("::")
            assert f"def {function.partition('[')[0]}(" in (ROOT / "tests" / file).read_text(), name


def test_faults_are_many_and_of_every_kind() -> None:
    parts = {mutation.part for mutation in MUTATIONS}
    assert parts >= {
        "losses", "length penalty", "advantages", "masks", "normalisation", "position ids", "KL", "ratios",
        "reference", "accumulation", "guard", "LoRA",
    }  # fmt: skip
    assert len({(m.file, m.old, m.new) for m in MUTATIONS}) == len(MUTATIONS) >= 36
    assert len({m.fault for m in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize(
    ("text", "old", "message"),
    [("a = 1\na = 1\n", "a = 1", "2 times"), ("a = 2\n", "a = 1", "0 times"), ("a = 1\n", "a = 1\n", "one line")],
)
def test_a_stale_fault_is_an_error(text: str, old: str, message: str, tmp_path: Path) -> None:
    (tmp_path / MODULE.PACKAGE).mkdir(parents=True)
    (tmp_path / MODULE.PACKAGE / "one.py").write_text(text)
    with pytest.raises(MODULE.StaleError, match=message):
        MODULE.Mutation("part", "fault", "one.py", old, "a = 3", ()).planted(tmp_path)


TOY = """
[[mutation]]
part = "toy"
fault = "adds wrongly"
file = "one.py"
old = "a + b"
new = "a - b"
tests = ["test_one.py::test_sum"]

[[mutation]]
part = "toy"
fault = "adds twice nothing"
file = "one.py"
old = "a + b"
new = "a + b + 0"
tests = ["test_one.py::test_sum"]
"""


def test_a_fault_is_killed_or_survives_and_the_tree_is_left_alone(tmp_path: Path) -> None:
    for folder in ("benchmarks", "src/trimtab", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "mutations.toml").write_text(TOY)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-q'\n")
    (tmp_path / "src/trimtab/__init__.py").write_text("")
    source = "def add(a, b):\n    return a + b\n"
    (tmp_path / "src/trimtab/one.py").write_text(source)
    (tmp_path / "tests/test_one.py").write_text(
        "from trimtab.one import add\n\ndef test_sum():\n    assert add(2, 3) == 5\n"
    )
    command = "import sys, mutations; mutations.LIBRARIES = ('pytest',); sys.exit(mutations.main([]))"
    found = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path / "benchmarks", capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 1, found.stderr
    verdicts = [line.split(" | ")[3] for line in found.stdout.splitlines() if line.startswith("| toy")]
    assert verdicts == ["killed", "SURVIVED"]
    assert "1 of 2 killed" in found.stdout
    assert (tmp_path / "src/trimtab/one.py").read_text() == source
