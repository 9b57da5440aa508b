"""What can be compared: a table of formats. To add one, write a file here with `suits` and `read`, and add a row.

A reader is given a path and says whether it is one of its own; the first that says so reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.notices import warn
from trimtab.readers import alpaca_eval, folders, inspect_logs, lm_eval, tables
from trimtab.readers.columns import Reading
from trimtab.readers.rows import MethodRows


@dataclass(frozen=True)
class Format:
    """One kind of source. name: in messages and docs/compare.md. suits: whether a path is of this kind. read: its
    methods; TrimtabError where it is spoilt."""

    name: str
    suits: Callable[[Path], bool]
    read: Callable[[Path, Reading], list[MethodRows]]


FORMATS = (
    Format("a folder of trimtab study, evaluate or generate", folders.suits, folders.read),
    Format("a folder of alpaca_eval", alpaca_eval.suits, alpaca_eval.read),
    Format("a log of inspect (.eval or .json)", inspect_logs.suits, inspect_logs.read),
    Format("samples of lm-eval", lm_eval.suits, lm_eval.read),
    Format("rows in JSONL, JSON, CSV or Parquet", tables.suits, tables.read),
)
"""The first that suits a source reads it."""


def check_sources(sources: Sequence[str]) -> None:
    """TrimtabError where a source is not there."""
    for source in sources:
        if not parts_of(source)[1].exists():
            known = "; ".join(each.name for each in FORMATS)
            raise TrimtabError(f"{source}: no such file or folder. Give {known}.")


def read_source(source: str, asked: Reading) -> list[MethodRows]:
    """The methods of one source: a path, PATH:METHOD for one of them, NAME=PATH to call it otherwise. TrimtabError
    where there is nothing that can be read, or no such method."""
    check_sources([source])
    name, path, only = parts_of(source)
    reader = next((each for each in FORMATS if each.suits(path)), None)
    if reader is None:
        raise TrimtabError(f"{path}: nothing to compare in it. Give {'; '.join(each.name for each in FORMATS)}.")
    methods = reader.read(path, asked)
    for method in methods:
        if method.unreadable:
            (reason, _), *others = method.unreadable.most_common()
            more = f", and {len(others)} other reasons" if others else ""
            rows = sum(method.unreadable.values())
            warn(f"{path.name}: {rows} rows could not be read and are left out ({reason}{more})", f"rows of {path}")
    if only:
        kept = [method for method in methods if method.name == only]
        if not kept:
            listed = ", ".join(dict.fromkeys(method.name for method in methods))
            raise TrimtabError(f"{path}: no method {only!r} in it. It has: {listed}.")
        methods = kept
    else:  # what the others are against stands in their rows
        against = {method.opponent for method in methods}
        methods = [method for method in methods if method.name not in against]
    names = list(dict.fromkeys(method.name for method in methods))
    if name:
        for method in methods:
            method.name = name if len(names) == 1 else f"{name} {method.name}"
    elif names == ["model"] and path.is_dir():  # what `trimtab evaluate` calls the only one
        for method in methods:
            method.name = path.resolve().name
    return methods


def parts_of(source: str) -> tuple[str, Path, str]:
    """NAME, PATH and METHOD of NAME=PATH:METHOD; "" for what is not said. A path that is there is none of these."""

    def is_there(text: str) -> bool:
        return bool(text) and os.path.exists(os.path.expanduser(text))

    name, mark, rest = source.partition("=")
    if is_there(source) or not mark or not (is_there(rest) or is_there(rest.rpartition(":")[0])):
        name, rest = "", source
    place, _, method = rest.rpartition(":")
    if is_there(rest) or not is_there(place):
        place, method = rest, ""
    return name, Path(os.path.expanduser(place)), method
