"""The day that a template which asks for today's date is given: that on which a run began, kept in settled.json.

A run that goes on tomorrow, and an evaluation of what it trained, then render the same text.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from trimtab.data.encoding import ControlTokens
from trimtab.files import make_folder, read_json, write_json
from trimtab.json_types import JsonObject

SETTLED = "settled.json"


def day_for(folder: Path, *fallbacks: datetime.date | None) -> datetime.date:
    """The day that a folder keeps; else the first of the fallbacks that is not None; else today."""
    kept = read_day(folder / SETTLED)
    return next((day for day in (kept, *fallbacks) if day is not None), None) or datetime.date.today()


def day_of_model(model: str) -> datetime.date | None:
    """The day of the stage that a model is the best of."""
    path = Path(model).expanduser()
    return read_day(path.parent / SETTLED) if path.name == "best" else None


def day_of_runs(study: Path) -> datetime.date:
    """The day on which a study's first stage began whose template asks for today's date; else today."""
    kept = (read_day(file) for file in sorted(study.glob(f"seed-*/*/*/{SETTLED}")))
    return next((day for day in kept if day is not None), datetime.date.today())


def values_of_model(model: str) -> JsonObject:
    """The chat_template_kwargs of the stage that a model is the best of."""
    values = _data_settings_of_model(model).get("chat_template_kwargs")
    return values if isinstance(values, dict) else {}


def control_tokens_of_model(model: str) -> ControlTokens:
    """How the stage that a model is the best of read control tokens in texts: as text or as tokens, all or some."""
    setting = _data_settings_of_model(model).get("control_tokens")
    if isinstance(setting, list):
        return tuple(map(str, setting))
    return "token" if setting == "token" else "text"  # of rows that are dropped it has read none


def _data_settings_of_model(model: str) -> JsonObject:
    path = Path(model).expanduser()
    data = _read(path.parent / "stage.json").get("data") if path.name == "best" else None
    return data if isinstance(data, dict) else {}


def read_day(file: Path) -> datetime.date | None:
    """The day that a settled.json names; None where it cannot be read or names none."""
    try:
        return datetime.date.fromisoformat(_read(file)["day"])
    except (KeyError, TypeError, ValueError):
        return None


def keep_day(folder: Path, day: datetime.date) -> None:
    """Writes the day into the folder's settled.json; what else stands there is kept."""
    file = folder / SETTLED
    if read_day(file) == day:
        return
    make_folder(folder)
    kept = read_json(file, f"Put it back, or remove {folder}.") if file.is_file() else {}
    write_json(file, kept | {"day": day.isoformat()})


def _read(file: Path) -> JsonObject:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
