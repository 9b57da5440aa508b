"""Which files of a folder, or of a hub data set, are a split: by its README's `configs`, else by their names.

The rules are the hub's: shards `data/SPLIT-00000-of-00002.parquet`; else folders named by a split; else files; else
everything is `train`. Pure: reads names and the README's text, opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from trimtab.errors import TrimtabError

IGNORED = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that describe data and hold none."""
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARD = re.compile(r"(?:.*/)?data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]+")


class NoSuchSplitError(TrimtabError):
    """A split or a configuration that is not there; its message says which are."""


def files_of(names: Sequence[str], readme: str, split: str, config: str | None = None) -> list[str]:
    """The files of a split, in order. names: paths relative to the folder, of files that can be read."""
    shown = sorted(name for name in names if not _hidden(name))
    configs = _configs(readme)
    if configs:
        splits = _splits_of_config(shown, configs, config)
    elif config is None or config == "default":
        splits = _splits_by_name(shown)
    else:
        inside = [name for name in shown if name.startswith(f"{config}/")]
        splits = _splits_by_name(inside)
        if not inside:
            raise NoSuchSplitError(f"it has no configuration {config!r}: its README names none.")
    found = splits.get(split)
    if found == [] and configs:
        raise NoSuchSplitError(f"its README.md names files of split {split!r}, and none of them is there.")
    if not found:
        known = ", ".join(name for name, files in splits.items() if files) or "no file that can be read"
        raise NoSuchSplitError(f"it has no split {split!r}. It has: {known}.")
    return found


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)


def _configs(readme: str) -> dict[str, Mapping[str, Any]]:
    """The configurations that a README's front matter names."""
    found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", readme, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if re.search(r"^configs:", found[1] if found else "", re.MULTILINE) is None:
            return {}
        reason = str(getattr(error, "problem", None) or error)[:120]
        raise NoSuchSplitError(
            f"its README.md names which files are read (configs), and cannot be read: {reason}. Mend or remove it."
        ) from None
    listed = head.get("configs") if isinstance(head, Mapping) else None
    listed = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    return {
        str(one.get("config_name", "default")): one for one in listed if "data_files" in one or "data_dir" in one
    }


def front_matter_configs(readme: str) -> str:
    """What of a README decides which files are read; "" where nothing does."""
    try:
        configs = _configs(readme)
    except NoSuchSplitError:  # said where the data is read
        return ""
    return repr(sorted(configs.items())) if configs else ""


def _splits_of_config(
    names: Sequence[str], configs: Mapping[str, Mapping[str, Any]], config: str | None
) -> dict[str, list[str]]:
    marked = [name for name, one in configs.items() if one.get("default") is True]
    wanted = config or (marked[0] if marked else "default" if "default" in configs else None)
    if wanted is None and len(configs) == 1:
        wanted = next(iter(configs))
    if wanted is None or wanted not in configs:
        says = (
            f"has no configuration {wanted!r}" if wanted else "has several configurations: name one (data.config)"
        )
        raise NoSuchSplitError(f"it {says}. It has: {', '.join(configs)}.")
    one = configs[wanted]
    folder = str(one.get("data_dir") or "").strip("/.")
    inside = [name for name in names if not folder or name.startswith(f"{folder}/")]
    if "data_files" not in one:
        return _splits_by_name(inside)
    patterns = _patterns(one["data_files"])
    return {
        split: [name for name in inside if any(_matches(name, f"{folder}/{p}" if folder else p) for p in several)]
        for split, several in patterns.items()
    }


def _patterns(given: Any) -> dict[str, list[str]]:
    """A README's data_files: a pattern, a list of them, or of {split, path}."""
    if isinstance(given, Mapping):
        return {str(split): _listed(path) for split, path in given.items()}
    listed = _listed(given)
    if all(isinstance(one, Mapping) for one in listed):
        return {str(one.get("split", "train")): _listed(one.get("path")) for one in listed}
    return {"train": listed}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(name: str, pattern: Any) -> bool:
    """Whether a path is what a pattern of the hub's means: ** any folders, * any letters but /."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", str(pattern).removeprefix("./"))
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    bracket = re.compile(r"\[[^\]]+\]")
    made = (known.get(p, p.replace("[!", "[^") if bracket.fullmatch(p) else re.escape(p)) for p in parts)
    try:
        return re.fullmatch("".join(made), name) is not None
    except re.error:
        return False


def _splits_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    shards: dict[str, list[str]] = {}
    for name in names:
        if found := SHARD.fullmatch(name):
            shards.setdefault(found[1], []).append(name)
    if shards:
        return shards
    for where in (_folders, _stem):
        found_by = {split: [n for n in names if where(n) & set(words)] for split, words in KEYWORDS.items()}
        if any(found_by.values()):
            return {split: files for split, files in found_by.items() if files}
    return {"train": list(names)}


def _words(text: str) -> set[str]:
    return set(re.split(r"[-._ 0-9]+", text))


def _folders(name: str) -> set[str]:
    return set().union(*(_words(part) for part in PurePosixPath(name).parent.parts))


def _stem(name: str) -> set[str]:
    return _words(PurePosixPath(name).name)
