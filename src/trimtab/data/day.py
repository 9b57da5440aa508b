"""The day that a template which asks for today's date is given: that on which a run began, kept in settled.json.

A run that goes on tomorrow, and an evaluation of what it trained, then render the same text.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from trimtab.data.encoding import ControlTokens
from trimtab.files import make_folder, read_json, write_json

SETTLED = "settled.json"


def day_for(folder: Path, *known: datetime.date | None) -> datetime.date:
    """The day that a folder keeps; else the first that is known; else today."""
    kept = read_day(folder / SETTLED)
    return next((day for day in (kept, *known) if day is not None), None) or datetime.date.today()


def day_of_model(model: str) -> datetime.date | None:
    """The day of the stage that a model is the best of."""
    path = Path(model).expanduser()
    return read_day(path.parent / SETTLED) if path.name == "best" else None


def day_of_runs(study: Path) -> datetime.date:
    """Of a study: that on which its first stage whose template asks for today's date began; else today."""
    kept = (read_day(file) for file in sorted(study.glob(f"seed-*/*/*/{SETTLED}")))
    return next((day for day in kept if day is not None), datetime.date.today())


def values_of_model(model: str) -> dict[str, Any]:
    """The chat_template_kwargs of the stage that a model is the best of."""
    found = _data_of_model(model).get("chat_template_kwargs")
    return found if isinstance(found, dict) else {}


def control_tokens_of_model(model: str) -> ControlTokens:
    """How the stage that a model is the best of read control tokens in texts: as text or as tokens, all or some."""
    found = _data_of_model(model).get("control_tokens")
    if isinstance(found, list):
        return tuple(map(str, found))
    return "token" if found == "token" else "text"  # of rows that are dropped it has read none


def _data_of_model(model: str) -> dict[str, Any]:
    path = Path(model).expanduser()
    data = _read(path.parent / "stage.json").get("data") if path.name == "best" else None
    return data if isinstance(data, dict) else {}


def read_day(file: Path) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(_read(file)["day"])
    except (KeyError, TypeError, ValueError):
        return None


def keep_day(folder: Path, day: datetime.date) -> None:
    """Writes the day down, beside what else is settled."""
    file = folder / SETTLED
    if read_day(file) == day:
        return
    make_folder(folder)
    kept = read_json(file, f"Put it back, or remove {folder}.") if file.is_file() else {}
    write_json(file, kept | {"day": day.isoformat()})


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
