"""The design's rules, read off the source: data flows one way, files stay small, one optimizer step."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trimtab

SOURCE = Path(trimtab.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FLOW = (
    "stopping",
    "files",
    "notices",
    "progress",
    "devices",
    "folder_lock",
    "dead_ends",
    "data",
    "instructions",
    "audit",
    "models",
    "losses",
    "advantages",
    "rewards",
    "rollout",
    "evaluation",
    "readers",
    "training",
    "methods",
    "sandbox",
    "tasks",
    "report",
    "command_settings",
    "recipe_defaults",
    "recipe_files",
    "recipe",
    "recipe_spaces",
    "settings_list",
    "recipe_schema",
    "chat",
    "study",
    "comparing",
    "prefer",
    "watch",
    "tune",
    "api",
    "init",
    "plan",
    "show",
    "settings_command",
    "options",
    "chat_command",
    "compare_command",
    "report_command",
    "prefer_command",
    "plan_command",
    "watch_command",
    "tune_command",
    "cli",
    "__main__",
)
"""A room imports only rooms to its left."""
FOR_ALL = {"errors", "catalogue", "formats", "json_types", "late", "__init__"}
WORD_TABLES = {"sandbox/lexicon.py", "sandbox/tables.py", "sandbox/wordings.py"}
"""Lists of words, as long as they need to be."""


def room(parts: tuple[str, ...]) -> str:
    """The first part below the package: data/chat.py is in data, cli.py is cli."""
    return parts[0].removesuffix(".py") if parts else "__init__"


def imported(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """The rooms that a file imports, at its top or inside a function. package: where relative imports start."""
    rooms = set()
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(("trimtab", *package)[: len(package) + 2 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            # `from trimtab import data` names the room last; `from trimtab import __version__` names none.
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "trimtab" else [module]
        for module in modules:
            root, *rest = module.split(".")
            if root == "trimtab":
                rooms.add("__init__" if rest == ["__version__"] else room(tuple(rest)))
    return rooms


def test_imports_are_found() -> None:
    """The reader of imports, on every form that one can take."""

    def found(code: str, *package: str) -> set[str]:
        return imported(ast.parse(code), package)

    assert found("import torch\nfrom torch.data import models") == set()
    assert found("import trimtab.data.chat") == {"data"}
    assert found("from trimtab.training.loop import Loop") == {"training"}
    assert found("from trimtab import study, __version__") == {"study", "__init__"}
    assert found("def f():\n    if 1:\n        from trimtab.cli import app") == {"cli"}
    assert found("from . import groups", "data") == {"data"}
    assert found("from ..report.render import x", "data") == {"report"}
    assert found("from .. import report", "data") == {"report"}


def _for_editors(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_rooms_import_only_to_their_left(file: Path) -> None:
    parts = file.relative_to(SOURCE).parts
    own = room(parts)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if parts == ("__init__.py",):  # its names are there for editors, and loaded when they are asked for
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and _for_editors(node))]
    used = imported(tree, parts[:-1]) - FOR_ALL
    if own in FOR_ALL:
        assert used == set()
        return
    assert own in FLOW, f"{own} is a new room: say where it stands in the flow"
    assert used <= set(FLOW), used - set(FLOW)
    to_the_right = {other for other in used if FLOW.index(other) > FLOW.index(own)}
    assert not to_the_right


def test_files_stay_small() -> None:
    lines = {str(f.relative_to(SOURCE)): len(f.read_text(encoding="utf-8").splitlines()) for f in FILES}
    too_long = {name: n for name, n in lines.items() if n > 350 and name not in WORD_TABLES}
    assert not too_long, "two rooms in one file"


def test_only_the_loop_steps_an_optimizer() -> None:
    """Any `thing.step(…)` counts, whatever the thing is called, but for a schedule."""
    found = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
                stepped = ast.unparse(node.func.value)
                if "sched" not in stepped:
                    found.add((str(file.relative_to(SOURCE)), stepped))
    assert found == {("training/loop.py", "self.optimizer")}


def test_only_samplers_import_vllm() -> None:
    """Sampling is a protocol: everything but the sampler runs where vLLM is not installed."""
    users = {
        str(file.relative_to(SOURCE))
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "vllm" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "vllm")
    }
    assert users <= {"rollout/vllm.py", "rollout/vllm_gloo.py", "rollout/vllm_plugin.py"}
