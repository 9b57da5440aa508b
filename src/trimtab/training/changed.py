"""A reward whose code was mended in the middle of a run: the run may go on with it, if asked to, and says so.

What changed, and when, is kept in stage.json and done.json under `reward_changes`, and among the warnings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.files import read_json, write_json
from trimtab.json_types import JsonObject
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


def accepts_changed_reward() -> bool:
    """Whether this is inside `accepting_changed_reward`."""
    return _accepting.get()


def only_the_reward(before: JsonObject, after: JsonObject) -> bool:
    """Whether two stages' inputs differ in the reward's or the judge's signature and in nothing else."""
    differ = [part for part, value in after.items() if before.get(part) != value]
    return bool(differ) and all(part in PARTS and before.get(part) for part in differ)


def accept_change(folder: Path, before: JsonObject, after: JsonObject, key: str, begun: str) -> bool:
    """Whether the folder is taken for the changed reward: then its inputs are written anew, done.json first.

    before, after: the inputs as the folder has them and as they are now. key: the hash of the latter. begun: see
    open_stage_folder.
    """
    if not _accepting.get():
        return False
    file = folder / "done.json"
    done = read_json(file, f"Put it back, or remove {folder}.") if file.is_file() else None
    step = _reached(folder, begun) if done is None else done.get("step", done.get("prompts", 0))
    new_changes = [
        {"what": part, "step": step, "from": before[part], "to": after[part]}
        for part in PARTS
        if part in after and before[part] != after[part]
    ]
    changes = [*before.get("reward_changes", ()), *new_changes]
    if done is not None:
        lines = [*done.get("warnings", ()), *(describe_change(change, finished=True) for change in new_changes)]
        write_json(file, done | {"key": key, "reward_changes": changes, "warnings": lines})
    write_json(folder / "stage.json", before | after | {"key": key, "reward_changes": changes})
    for change in new_changes:
        say(f"{folder.name}: {describe_change(change, finished=done is not None)}")
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


def describe_change(change: JsonObject, finished: bool = False) -> str:
    """One change of a reward as a sentence for the card and the warnings."""
    if finished:
        return (
            f"the {change['what']} was changed after this was done (--accept-changed-reward): this had the old one."
        )
    return (
        f"the {change['what']} was changed at step {change['step']} (--accept-changed-reward): what came before, "
        "evaluations too, had the old one."
    )


def changes_of(folder: Path) -> list[JsonObject]:
    """The changes of the reward that a stage's folder has recorded; each is added to the warnings."""
    kept = read_json(folder / "stage.json", f"Put it back, or remove {folder}.")
    changes: list[JsonObject] = kept.get("reward_changes", [])
    for change in changes:
        warn(describe_change(change), aloud=False)
    return changes
