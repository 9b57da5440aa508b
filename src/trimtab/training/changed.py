"""A reward whose code was mended in the middle of a run: the run may go on with it, if asked to, and says so.

What changed, and when, is kept in stage.json and done.json under `reward_changes`, and among the warnings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.files import read_json, write_json
from trimtab.notices import say, warn
from trimtab.training.checkpoint import Checkpoints

PARTS = ("reward", "judge")
"""Of a stage's inputs: the signatures that may change."""
HINT = "Where its code was mended and the run shall go on with it, give --accept-changed-reward: it is recorded."
_accepting: ContextVar[bool] = ContextVar("accepting", default=False)


@contextmanager
def accepting_changed_reward(accept: bool = True) -> Iterator[None]:
    """Stages that are run inside go on with a reward that is not the one that they began with."""
    token = _accepting.set(accept)
    try:
        yield
    finally:
        _accepting.reset(token)


def only_the_reward(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two stages' inputs differ in the reward's or the judge's signature and in nothing else."""
    differ = [part for part, value in ours.items() if theirs.get(part) != value]
    return bool(differ) and all(part in PARTS and theirs.get(part) for part in differ)


def accepted(folder: Path, theirs: dict[str, Any], ours: dict[str, Any], key: str, begun: str) -> bool:
    """Whether the folder is taken for the changed reward: then what it is for is written anew, done.json first."""
    if not _accepting.get():
        return False
    file = folder / "done.json"
    done = read_json(file, f"Put it back, or remove {folder}.") if file.is_file() else None
    step = _reached(folder, begun) if done is None else done.get("step", done.get("prompts", 0))
    found = [
        {"what": part, "step": step, "from": theirs[part], "to": ours[part]}
        for part in PARTS
        if part in ours and theirs[part] != ours[part]
    ]
    changes = [*theirs.get("reward_changes", ()), *found]
    if done is not None:
        lines = [*done.get("warnings", ()), *(describe_change(one, finished=True) for one in found)]
        write_json(file, done | {"key": key, "reward_changes": changes, "warnings": lines})
    write_json(folder / "stage.json", theirs | ours | {"key": key, "reward_changes": changes})
    for one in found:
        say(f"{folder.name}: {describe_change(one, finished=done is not None)}")
    return True


def _reached(folder: Path, begun: str) -> int:
    """The step that the run goes on from; of pairs, the chunks that were scored."""
    if begun == "samples":
        return sum(_is_scored(file) for file in (folder / begun).glob("*.json"))
    return max(Checkpoints(folder / "checkpoints").steps(), default=0)


def _is_scored(chunk: Path) -> bool:
    with suppress(TrimtabError):  # a damaged one is drawn again
        return "scoring_seconds" in read_json(chunk, "")
    return False


def describe_change(change: Mapping[str, Any], finished: bool = False) -> str:
    """One change of a reward as a sentence for the card and the warnings."""
    if finished:
        return (
            f"the {change['what']} was changed after this was done (--accept-changed-reward): this had the old one."
        )
    return (
        f"the {change['what']} was changed at step {change['step']} (--accept-changed-reward): what came before, "
        "evaluations too, had the old one."
    )


def changes_of(folder: Path) -> list[dict[str, Any]]:
    """Those that a stage's folder has recorded, warned of."""
    kept = read_json(folder / "stage.json", f"Put it back, or remove {folder}.")
    found: list[dict[str, Any]] = kept.get("reward_changes", [])
    for one in found:
        warn(describe_change(one), aloud=False)
    return found
