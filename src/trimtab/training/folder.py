"""A stage's folder: what it is for, who may go on in it, and whether what it holds is what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trimtab import __version__
from trimtab.data.day import SETTLED
from trimtab.devices import best_device, choose_threads, set_threads
from trimtab.errors import TrimtabError
from trimtab.files import clear_leftovers, damage, difference, make_folder, read_json, sums_of, write_json
from trimtab.json_types import JsonObject
from trimtab.models.settings import resolve_precision
from trimtab.models.weights import is_tiny
from trimtab.notices import say, warn
from trimtab.stopping import is_first_process
from trimtab.training.card import CARD
from trimtab.training.changed import HINT, accept_change, only_the_reward
from trimtab.training.checkpoint import Checkpoints
from trimtab.training.operational import operational, without_operational
from trimtab.training.schedule import TrainingSettings

ELSEWHERE = "Choose another output folder, or remove this one."
AGAIN = "Put it back, or remove {}, and the same command makes it anew."
LOGS = ("metrics.jsonl", "samples.jsonl", "completions.jsonl", "skipped.jsonl")
OF_BEST = "best_files"
"""In done.json: the sums of best/, but for its card, which a study writes anew."""
OF_LOGS = "files"
BESIDE = ("key", "trimtab", "reward_changes")
"""In stage.json: what is no input."""


NEWER: JsonObject = {"optimizer": "adamw", "order": None, "heads": 1, "judged_prompts": 64, "judged_tokens": 128}
"""Settings that earlier versions had not, with what they did: so set, they are no inputs."""


def inputs_key(inputs: JsonObject) -> str:
    """A hash of all that the result depends on."""
    return hashlib.blake2b(json.dumps(_result_inputs(inputs), sort_keys=True).encode(), digest_size=16).hexdigest()


def _result_inputs(inputs: JsonObject) -> JsonObject:
    """As they read back (lists for tuples), without what changes no result."""
    read: JsonObject = json.loads(json.dumps(inputs))
    bare = {part: without_operational(value) for part, value in read.items() if part not in BESIDE}
    if isinstance(settings := bare.get("settings"), dict):
        # Of what an input names by hash, such as a teacher, the place is left out.
        left_out = read.keys() | {name for name, value in NEWER.items() if settings.get(name) == value}
        bare["settings"] = {name: value for name, value in settings.items() if name not in left_out}
    return bare


def open_stage_folder(folder: Path, inputs: JsonObject, begun: str = "metrics.jsonl", model: str = "") -> bool:
    """Takes the folder for these inputs, and returns whether the stage is done. TrimtabError for one of others.

    begun: what is in the folder once something was done for its inputs. model: where training starts.
    """
    key, bare = inputs_key(inputs), _result_inputs(inputs)
    file, done = folder / "stage.json", folder / "done.json"
    recorded = read_json(file, AGAIN.format(folder)) if file.is_file() else None
    same = recorded is not None and _result_inputs(recorded) == bare
    if recorded and (folder / begun).exists():
        only = not same and only_the_reward(_result_inputs(recorded), bare)
        if not same and not (only and accept_change(folder, recorded, json.loads(json.dumps(inputs)), key, begun)):
            why = difference(_result_inputs(recorded), bare) + _changed_start(model)
            hint = f" {HINT}" if only else ""
            raise TrimtabError(f"{folder}: holds another run ({why}). {ELSEWHERE}{hint}")
    elif recorded is None and (done.exists() or (folder / "checkpoints").exists()):
        raise TrimtabError(f"{file}: is gone, and with it what this folder is for. {AGAIN.format(folder)}")
    elif recorded is None and folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise TrimtabError(f"{folder}: is not empty, and not a folder of trimtab's. {ELSEWHERE}")
    else:  # new, or claimed by a run that found a mistake in its inputs before it began
        make_folder(folder)
        if recorded and not same:
            (folder / SETTLED).unlink(missing_ok=True)
        recorded = {"key": key, "trimtab": __version__, **inputs}
        write_json(file, recorded)
    if is_first_process():
        clear_leftovers(folder)
    if not done.is_file():
        return False
    # An earlier version's key held more; its inputs are the same.
    return read_json(done, AGAIN.format(folder)).get("key") in (key, recorded["key"] if same else key)


def resolve_auto(folder: Path, settings: TrainingSettings, model: str) -> TrainingSettings:
    """The settings with every `auto` decided, and the threads of the process set; the decision is kept in
    settled.json, so that a resumed run keeps it. model: the folder that the stage starts from.

    There too: which settings that change no result were changed, and from which step on.
    """
    file, steps = folder / SETTLED, Checkpoints(folder / "checkpoints").steps()
    now = operational(json.loads(settings.model_dump_json()))
    settled = read_json(file, AGAIN.format(folder)) if file.is_file() else {}
    if "precision" not in settled:
        if steps:
            raise TrimtabError(
                f"{file}: is gone, and with it precision and threads of the steps so far. Put it back, or remove "
                f"{folder / 'checkpoints'}, and the same command starts again from the first step."
            )
        device = best_device()
        precision = resolve_precision(settings.precision, device)
        threads = choose_threads(device, is_tiny(model))
        settled |= {"precision": precision, "threads": threads, "operational": now}
        write_json(file, settled)
    if is_first_process():
        _note_changes(file, settled, now, steps[-1] if steps else 0)
    set_threads(settled["threads"])
    return settings.model_copy(update={"precision": settled["precision"]})


def _note_changes(file: Path, settled: JsonObject, now: JsonObject, step: int) -> None:
    """Says and writes down which operational settings are others than before."""
    stage = file.with_name("stage.json")
    before = settled.get("operational")
    if before is None and stage.is_file():  # an earlier version's
        before = operational(read_json(stage, AGAIN.format(file.parent)).get("settings", {}))
    changes = [
        {"step": step, "setting": name, "from": before[name], "to": value}
        for name, value in now.items()
        if before and name in before and before[name] != value
    ]
    if not changes:
        return
    for change in changes:
        name, value = change["setting"], change["to"]
        say(f"{file.parent.name}: {name} is {value} from step {step} on, and was {change['from']}")
    write_json(file, settled | {"operational": now, "changed": [*settled.get("changed", []), *changes]})


def changed_settings(folder: Path) -> list[JsonObject]:
    """The settings that change no result and were changed while the stage ran, each with the step."""
    return list(read_json(folder / SETTLED, AGAIN.format(folder)).get("changed", []))


# ---- what a finished stage holds


def written_files(folder: Path) -> JsonObject:
    """The checksums of what the stage leaves, as done.json keeps them."""
    best = {name: checksum for name, checksum in sums_of(folder / "best").items() if name != CARD}
    logs = sums_of(folder, [name for name in LOGS if (folder / name).is_file()])
    return {OF_BEST: best, OF_LOGS: logs}


def check_finished(folder: Path, name: str) -> None:
    """Checks that a finished stage is still what it was.

    TrimtabError, with the remedy, where its model is not; a warning where its curves are not.
    """
    done = read_json(folder / "done.json", AGAIN.format(folder))
    if wrong := _model_damage(folder, done):
        cure = f"{AGAIN.format(folder)} A model that you changed belongs into another folder."
        raise TrimtabError(f"{name}: {wrong}. {cure}")
    if wrong := damage(folder, done.get(OF_LOGS, {})):
        warn(f"{name}: {wrong}: what is shown of this stage is what is left")


def _model_damage(folder: Path, done: JsonObject) -> str | None:
    best = folder / "best"
    if OF_BEST in done:
        return damage(best, done[OF_BEST])
    # An earlier version's: at least weights and config must be there.
    lacking = [what for what in ("config.json", "*.safetensors") if not any(best.glob(what))]
    return f"{best} lacks {' and '.join(lacking)}" if lacking else None


def changed_model(model: str) -> str | None:
    """What was changed, in words, in a model that is a finished stage's best/; None where nothing was, and for
    any other."""
    best = Path(model).expanduser()
    if best.name != "best" or not (best.parent / "done.json").is_file():
        return None
    return _model_damage(best.parent, read_json(best.parent / "done.json", AGAIN.format(best.parent)))


def _changed_start(model: str) -> str:
    changed = changed_model(model) if model else None
    return f": {changed}, after that stage had ended" if changed else ""
