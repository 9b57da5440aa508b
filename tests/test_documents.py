"""The documents name what there is: links, commands, options, settings, files, and TRL's settings beside ours."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import trimtab
from test_architecture import FLOW
from trimtab.catalogue import CATALOGUE
from trimtab.cli import app
from trimtab.errors import TrimtabError
from trimtab.losses.table import LOSSES, parameters
from trimtab.methods.table import METHODS
from trimtab.options import EVERYWHERE
from trimtab.recipe import Recipe, load_recipe
from trimtab.settings_list import settings_table

ROOT = Path(__file__).parents[1]
SOURCE = Path(trimtab.__file__).parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "findings/README.md", ROOT / "tests/README.md"]
)
WRITTEN = [page for page in PAGES if page.name not in ("settings.md", "CHANGELOG.md")]
"""Pages that people write, of the code as it is."""
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
HEADS = {
    *Recipe.model_fields, "lora", "sampling", "decoding", "length_penalty", "length_encoding", "loss_options",
    "condition", "length_instruction", "response_conditioned",
}  # fmt: skip
"""What a setting with a dot in it begins with."""
FILES = (".py", ".md", ".json", ".jsonl", ".yaml", ".sqlite", ".toml")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Code within sentences and tables, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_fences(text))]


def fenced_lines(text: str) -> list[str]:
    """Lines of code blocks, continued ones joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `trimtab …` that a page shows, without `trimtab`."""
    for code in [*fenced_lines(text), *spans(text)]:
        if code.startswith("trimtab "):
            try:
                words = shlex.split(code, comments=True)[1:]
            except ValueError:
                words = code.split()[1:]
            yield [word for word in words if word not in EVERYWHERE]


def is_setting(key: str) -> bool:
    """Whether a recipe has it. An option of a loss is one of any loss; what a mapping holds is free."""
    head, _, option = key.rpartition(".")
    if head.rpartition(".")[2] == "loss_options":
        return any(option in parameters(loss)[1] for loss in LOSSES)
    try:
        settings_table(key)
    except TrimtabError:
        return False
    return True


def places(command: str, key: str) -> list[str]:
    """Where a recipe has what `--set` of a command sets."""
    method = command.replace("-", "_")
    if command in ("study", "plan", ""):
        return [key]
    if key.split(".")[0] == "data" or (command == "evaluate" and key.split(".")[0] == "tasks"):
        return [key]
    return [f"{method if method in METHODS else 'evaluation'}.{key}"]


# ---- README


def sentences(text: str) -> list[str]:
    """Of the prose: cells of a table, points of a list and headings are each by themselves."""
    prose = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", without_fences(text))
    prose = re.sub(r"^(\s*[-*] |#+ .*$|\|.*\|$)", lambda line: "\n\n" + line[0].replace("|", "\n\n") + (
        "\n\n" if line[0].startswith(("#", "|")) else ""
    ), prose, flags=re.MULTILINE)  # fmt: skip
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", prose)]
    return [s for part in paragraphs for s in re.split(r"(?<=[.!?])\**\s+(?=[*`“\"A-Z])", part) if s]


def test_sentences_are_found() -> None:
    text = "# A head\nOne is. **Two** is\nhere: `a.b c`.\n- A point. Another!\n\n"
    text += "| a | b c |\n|---|---|\n\n```\nx y z\n```\n"
    found = [s for s in sentences(text) if re.search(r"\w", s)]
    assert found == ["# A head", "One is.", "**Two** is here: `a.b c`.", "- A point.", "Another!", "a", "b c"]


def test_the_readme_is_short_and_plain() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    long = [s for s in sentences(text) if len(re.findall(r"\S*\w\S*", re.sub(r"`[^`]*`", "code", s))) > 30]
    assert not long


# ---- links and files


def anchors(page: Path) -> set[str]:
    """What a heading is called in links, as GitHub has it."""
    heads = re.findall(r"^#+ (.+)$", without_fences(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                dead.append(target)
    assert not dead


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert not {page for page in pages if f"({page})" not in index}


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_files_of_the_code_that_a_page_names_are_there(page: Path) -> None:
    roots = (SOURCE, ROOT, ROOT / "tests", SOURCE / "rewards", page.parent)
    paths = {
        m
        for span in spans(page.read_text(encoding="utf-8"))
        for m in re.findall(r"[\w/.-]+/[\w.-]+\.(?:py|toml)\b", span)
    }
    ours = {p for p in paths if not p.startswith(("path/", "../", "trl/"))}
    assert not {path for path in ours if not any((root / path).exists() for root in roots)}


def test_the_table_of_rooms_has_all_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    cells = " ".join(row[0] for row in tables(page, "room"))
    assert [name.rstrip("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", cells)] == [
        room for room in FLOW if room != "__main__"
    ]


# ---- commands and settings


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_commands_options_and_settings_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    for name, *words in commands(text):
        if name not in COMMANDS:
            wrong += [name] if re.fullmatch(r"[a-z][a-z-]*", name) else []
            continue
        options = {option for p in COMMANDS[name].params for option in (*p.opts, *p.secondary_opts)} | {
            "--help",
            "-h",
        }
        for word, following in pairwise([*words, ""]):
            if re.match(r"--?[a-z]", word) and word.split("=")[0] not in options:
                wrong.append(f"{name} {word}")
            key = following.split("=")[0]
            if word == "--set" and "=" in following and not any(map(is_setting, places(name, key))):
                wrong.append(f"{name} --set {key}")
    assert not wrong


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_settings_with_a_dot_exist(page: Path) -> None:
    wrong = []
    for span in spans(page.read_text(encoding="utf-8")):
        key = re.sub(r"^--set '?|[=:].*$", "", span)
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.split(".")[0] in HEADS and not key.endswith(FILES):
            wrong += [] if any(is_setting(f"{place}{key}") for place in PLACES) else [span]
    assert not wrong


PLACES = ("", "evaluation.", *(f"{name}." for name in METHODS))


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "methods").glob("*.md")), ids=named)
def test_tables_of_settings_name_the_methods_own(page: Path) -> None:
    rows = tables(page.read_text(encoding="utf-8"), "setting")
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row[0])]
    method = page.stem if page.stem in METHODS else ""
    assert not [key for key in keys if not is_setting(f"{method}.{key}")]


def test_every_method_has_a_page() -> None:
    pages = {"sft_length": "length_penalty", "reward": "reward_model"}
    without = [n for n in METHODS if not (ROOT / "docs" / "methods" / f"{pages.get(n, n)}.md").is_file()]
    assert not without
    assert set(METHODS) < set(CATALOGUE)


# ---- TRL


def tables(text: str, first: str) -> list[list[str]]:
    """Cells of every row of the tables whose first header this is."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            rows.append(cells)
    return rows


FROM_TRL = (ROOT / "docs" / "from_trl.md").read_text(encoding="utf-8")
SECTIONS = {
    "Every method": ("DPOConfig", "dpo"),
    "Adapters (`ModelConfig`)": ("ModelConfig", "dpo"),
    **{
        f"`{config}` → `{method}`": (config, method)
        for config, method in re.findall(r"^## `(\w+)` → `(\w+)`$", FROM_TRL, flags=re.MULTILINE)
    },
}


def trl_config(name: str) -> Any:
    trl = pytest.importorskip("trl")
    if name == "GKDConfig":
        return pytest.importorskip("trl.experimental.gkd").GKDConfig
    return getattr(trl, name)


def defaults(config: Any) -> dict[str, Any]:
    """What a config class of TRL's has for each field, as YAML would have it."""
    values = {}
    for field in dataclasses.fields(config):
        value = field.default_factory() if callable(field.default_factory) else field.default
        values[field.name] = str(value.value) if isinstance(value, Enum) else value
    return values


def test_all_of_trls_configs_are_compared() -> None:
    assert [config for config, _ in SECTIONS.values()][2:] == [
        "SFTConfig", "DPOConfig", "KTOConfig", "RewardConfig", "RLOOConfig", "GRPOConfig", "GKDConfig",
    ]  # fmt: skip


@pytest.mark.parametrize("head", SECTIONS)
@pytest.mark.filterwarnings("ignore")
def test_names_and_defaults_are_trls_and_ours(head: str) -> None:
    config, method = SECTIONS[head]
    section = FROM_TRL.partition(f"## {head}\n")[2].partition("\n## ")[0]
    theirs = defaults(trl_config(config))
    rows = tables(section, "TRL")
    assert rows
    for name, default, setting, ours, _ in rows:
        name, setting = name.strip("`"), setting.strip("`")
        value = yaml.safe_load(default)
        value = float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value) else value
        assert theirs[name] == value, name
        if setting != "–":
            group, _, key = f"{method}.{setting}".rpartition(".")
            [own] = [row[2] for row in settings_table(group).rows if row[0] == key]
            assert own == ours, setting


def test_trls_yaml_and_the_recipe_beside_it_can_be_read(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", FROM_TRL, flags=re.MULTILINE | re.DOTALL)
    trl = pytest.importorskip("trl")
    known = {
        f.name
        for config in (trl.DPOConfig, trl.ModelConfig, trl.ScriptArguments)
        for f in dataclasses.fields(config)
    }
    assert set(yaml.safe_load(blocks[0])) <= known
    (tmp_path / "mine.yaml").write_text(blocks[1])
    recipe = load_recipe(tmp_path / "mine.yaml", [])
    assert (recipe.dpo.beta, recipe.dpo.lora.rank, recipe.sft.warmup_steps) == (0.1, 32, 10)  # type: ignore[union-attr]


def test_losses_and_objectives_that_trls_names_become_are_ours() -> None:
    [line] = re.findall(r"`loss_type` → `loss`: (.*?)\. ", " ".join(FROM_TRL.split()))
    assert {ours for _, ours in re.findall(r"`(\w+)` → `(\w+)`", line)} <= set(LOSSES)
