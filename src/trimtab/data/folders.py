"""Which files of a folder, or of a hub data set, are a split: by its README's `configs`, else by their names.

The rules are the hub's: shards `data/SPLIT-00000-of-00002.parquet`; else folders named by a split; else files; else
everything is `train`. Pure: reads names and the README's text, opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import yaml

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonValue

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
    files = splits.get(split)
    if files == [] and configs:
        raise NoSuchSplitError(f"its README.md names files of split {split!r}, and none of them is there.")
    if not files:
        others = ", ".join(name for name, files in splits.items() if files) or "no file that can be read"
        raise NoSuchSplitError(f"it has no split {split!r}. It has: {others}.")
    return files


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)


Config = Mapping[str, JsonValue]
"""A configuration as a README has it: config_name, default, data_dir, data_files."""


def _configs(readme: str) -> dict[str, Config]:
    """The configurations that a README's front matter names."""
    front_matter = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", readme, re.DOTALL)
    try:
        head = yaml.safe_load(front_matter[1]) if front_matter else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if re.search(r"^configs:", front_matter[1] if front_matter else "", re.MULTILINE) is None:
            return {}
        reason = str(getattr(error, "problem", None) or error)[:120]
        raise NoSuchSplitError(
            f"its README.md names which files are read (configs), and cannot be read: {reason}. Mend or remove it."
        ) from None
    listed = head.get("configs") if isinstance(head, Mapping) else None
    configs = [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    return {
        str(item.get("config_name", "default")): item
        for item in configs
        if "data_files" in item or "data_dir" in item
    }


def front_matter_configs(readme: str) -> str:
    """The configurations of a README, as one text to be hashed: they decide which files are read. "" for none."""
    try:
        configs = _configs(readme)
    except NoSuchSplitError:  # said where the data is read
        return ""
    return repr(sorted(configs.items())) if configs else ""


def _splits_of_config(
    names: Sequence[str], configs: Mapping[str, Config], name: str | None
) -> dict[str, list[str]]:
    """The files of each split of the configuration called `name`; None: of the default one."""
    defaults = [name for name, config in configs.items() if config.get("default") is True]
    chosen = name or (defaults[0] if defaults else "default" if "default" in configs else None)
    if chosen is None and len(configs) == 1:
        chosen = next(iter(configs))
    if chosen is None or chosen not in configs:
        says = (
            f"has no configuration {chosen!r}" if chosen else "has several configurations: name one (data.config)"
        )
        raise NoSuchSplitError(f"it {says}. It has: {', '.join(configs)}.")
    config = configs[chosen]
    folder = str(config.get("data_dir") or "").strip("/.")
    inside = [file for file in names if not folder or file.startswith(f"{folder}/")]
    if "data_files" not in config:
        return _splits_by_name(inside)
    return {
        split: [file for file in inside if any(_matches(file, f"{folder}/{p}" if folder else p) for p in patterns)]
        for split, patterns in _patterns_by_split(config["data_files"]).items()
    }


def _patterns_by_split(data_files: JsonValue) -> dict[str, list[str]]:
    """A README's data_files: a pattern, a list of them, or of {split, path}."""
    if isinstance(data_files, Mapping):
        return {str(split): _texts(path) for split, path in data_files.items()}
    items = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(item, Mapping) for item in items):
        return {str(item.get("split", "train")): _texts(item.get("path")) for item in items}
    return {"train": _texts(items)}


def _texts(value: JsonValue) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _matches(path: str, pattern: str) -> bool:
    """Whether a path is what a pattern of the hub's means: ** any folders, * any letters but /."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./"))
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    bracket = re.compile(r"\[[^\]]+\]")
    regex = (wildcards.get(p, p.replace("[!", "[^") if bracket.fullmatch(p) else re.escape(p)) for p in parts)
    try:
        return re.fullmatch("".join(regex), path) is not None
    except re.error:
        return False


def _splits_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    shards: dict[str, list[str]] = {}
    for name in names:
        if shard := SHARD.fullmatch(name):
            shards.setdefault(shard[1], []).append(name)
    if shards:
        return shards
    for words_of in (_words_of_folders, _words_of_name):
        by_split = {split: [n for n in names if words_of(n) & set(words)] for split, words in KEYWORDS.items()}
        if any(by_split.values()):
            return {split: files for split, files in by_split.items() if files}
    return {"train": list(names)}


def _words(text: str) -> set[str]:
    return set(re.split(r"[-._ 0-9]+", text))


def _words_of_folders(name: str) -> set[str]:
    return set().union(*(_words(part) for part in PurePosixPath(name).parent.parts))


def _words_of_name(name: str) -> set[str]:
    return _words(PurePosixPath(name).name)
