"""When an evaluation's files are complete: a mark beside them holds the inputs that they were made of, their
checksums, and the warnings of their making. generated.json marks completions, inputs.json all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import SCORES, read_generations, read_measured, read_scores
from trimtab.files import damage, difference, read_json, sums_of, write_json
from trimtab.json_types import JsonObject, JsonValue
from trimtab.notices import collected, warn

FILES, WARNINGS = "files", "warnings"
"""In a mark: the sums of the files that it stands for; the warnings of their making, by subject."""
NO_INPUTS = (FILES, WARNINGS, "seconds", "threads", "computed_in", "judge", "counts")
"""Parts of marks by which completions do not differ."""


def is_complete(file: Path, inputs: Mapping[str, JsonValue]) -> bool:
    """Whether what lies there is of these inputs, and as it was written. What was damaged is made anew: that gives
    the same, and is said."""
    if not file.is_file():
        return False
    try:
        kept = read_json(file, "It is made anew.")
        sums = kept.pop(FILES, None)
        kept.pop(WARNINGS, None)
        if kept != as_read(inputs):
            return False
        wrong = damage(file.parent, sums) if sums is not None else _unreadable(file.parent)
        if wrong is None:
            return True
        told = f"{wrong}. It is made anew."
    except (TrimtabError, ValueError, TypeError) as error:
        told = str(error)
    only_say(told)
    return False


def as_read(inputs: Mapping[str, JsonValue]) -> JsonObject:
    """The inputs as they come back from a file: tuples become lists, keys become text."""
    read: JsonObject = json.loads(json.dumps(inputs))
    return read


def only_say(line: str) -> None:
    """A warning of this run alone: the results, which come out the same, know nothing of it."""
    with collected():
        warn(line)


def _unreadable(folder: Path) -> str | None:
    """What is wrong with files of an earlier version, which wrote no sums."""
    try:
        read_measured(folder)
        read_generations(folder / "generations.jsonl")
        if (folder / SCORES).is_file():
            read_scores(folder / SCORES)
    except (TrimtabError, OSError) as error:
        return str(error).rstrip(" .")
    return None


def mark_complete(
    file: Path, inputs: Mapping[str, JsonValue], names: Sequence[str], told: Mapping[str, str]
) -> None:
    """Marks the files of those names beside it as complete. told: warnings of their making, by subject."""
    write_json(file, {**inputs, FILES: sums_of(file.parent, names), WARNINGS: dict(told)})


def warnings_of(file: Path) -> dict[str, str]:
    """By subject; none where an earlier version wrote none."""
    warned = _kept(file).get(WARNINGS)
    return {str(about): str(line) for about, line in warned.items()} if isinstance(warned, dict) else {}


def _kept(file: Path) -> JsonObject:
    try:
        return read_json(file, "") if file.is_file() else {}
    except TrimtabError:
        return {}


def others(folder: Path, inputs: Mapping[str, JsonValue]) -> str | None:
    """What differs, in words, between these inputs and those of what lies there, whoever judged it; None where
    nothing does, or where nothing of this version lies there."""
    asked = as_read(inputs)
    for name in ("inputs.json", "generated.json", "generating.json"):
        kept = _kept(folder / name)
        if kept and kept.get("version") == asked["version"]:
            parts = [part for part in {**kept, **asked} if part not in NO_INPUTS]
            before = {part: kept.get(part) for part in parts}
            now = {part: asked.get(part) for part in parts}
            return None if before == now else difference(before, now)
    return None


def had_another_judge(folder: Path, inputs: Mapping[str, JsonValue]) -> bool:
    """Whether what lies there was judged, and by another."""
    kept = _kept(folder / "inputs.json")
    return kept.get("judge") not in (None, as_read(inputs).get("judge"))
