"""What a reward function gives back, as scores and as JSON. A value that could be misread is refused in words:
a dict has keys, text has digits, a complex number has two parts, and none of them is a list of scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from numbers import Complex, Real
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonValue
from trimtab.rewards.base import LARGEST, Scored

WORDS = 200
"""Characters of a foreign error or value that a message shows."""
DEEP = 4
"""Lists within lists of a logged value that are kept as such."""


def short(value: object, most: int = 80) -> str:
    """A value in a message: one line, whatever its repr does."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # 10**5000 has no repr, and a class may have a broken one
        text = f"a value of type {type(value).__name__}"
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def error_words(error: BaseException) -> str:
    """Its type and text, on one line of bearable length."""
    try:
        text = short(str(error), WORDS)
    except Exception:
        text = "its text cannot be shown"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def listed(values: object, n: int, what: str) -> list[object]:
    """n values out of a list, an array or an iterator; TrimtabError for what has no order, or another number.

    An array of one column counts as the list of its rows.
    """
    kind = type(values).__name__
    if hasattr(values, "to_numpy"):  # a table's column; a table's own list would be its header
        values = values.to_numpy()
    shape = tuple(getattr(values, "shape", ()))
    if hasattr(values, "tolist") and not isinstance(values, type):
        if len(shape) > 1:
            if shape != (n, 1):
                raise TrimtabError(
                    f"{what}: gave an array of shape {shape}; expected one number for each of {n} completions."
                )
            values = values.reshape(-1) if hasattr(values, "reshape") else values
        values = values.tolist()  # a masked value becomes None
    if isinstance(values, Mapping | Set | str | bytes | bytearray | type) or not hasattr(values, "__iter__"):
        hint = " (its keys would be taken for scores)" if isinstance(values, Mapping) else ""
        raise TrimtabError(f"{what}: gave {kind}, not a list with a value for each completion, in order{hint}.")
    values_list = list(islice(values, n + 1)) if isinstance(values, Iterator) else list(values)
    if len(values_list) != n:
        more = "more than " if isinstance(values, Iterator) and len(values_list) > n else ""
        count = n if more else len(values_list)
        raise TrimtabError(f"{what}: gave {more}{count} values for {n} completions.")
    return values_list


def scored(name: str, value: object, breakdown: Mapping[str, JsonValue] | None = None) -> Scored:
    """A value as a score; without one where it is missing (None, NA) or not finite. TrimtabError where it is no
    number at all."""
    parts = breakdown or {}
    if value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return Scored(None, f"{name} gave {value}", parts)
    return as_score(name, _number(name, value), parts)


def as_score(name: str, number: float, breakdown: Mapping[str, JsonValue] | None = None) -> Scored:
    """A float as a score, where training and statistics can hold it."""
    parts = breakdown or {}
    if not math.isfinite(number):
        return Scored(None, f"{name} gave {number}", parts)
    if abs(number) > LARGEST:
        return Scored(None, f"{name} gave {number:g}, beyond ±{LARGEST:g}", parts)
    return Scored(number, breakdown=parts)


def _number(name: str, value: Any) -> float:
    shown = short(repr(value) if isinstance(value, str) else value)
    wrong = f"reward function {name}: gave {shown}, which is not a number"
    if isinstance(value, str | bytes):
        raise TrimtabError(f"{wrong} but text: give float(…) of it.")
    if hasattr(value, "item") and getattr(value, "shape", None) is not None:
        try:
            value = value.item()
        except Exception:  # an array of several numbers
            raise TrimtabError(f"{wrong}.") from None
    if isinstance(value, Complex) and not isinstance(value, Real):
        raise TrimtabError(f"{wrong} that can be compared, but a complex one.")
    try:
        return float(value)
    except OverflowError:  # 10**400
        return math.inf if value > 0 else -math.inf
    except Exception:
        raise TrimtabError(f"{wrong}.") from None


def plain(value: object, deep: int = DEEP) -> JsonValue:
    """A logged value as JSON: what is no number is null, and an object is its text."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int | float):
        return value if abs(value) <= LARGEST else short(value)
    if deep and isinstance(value, list | tuple):
        return [plain(item, deep - 1) for item in value]
    if deep and isinstance(value, Mapping):
        return {short(key): plain(item, deep - 1) for key, item in value.items()}
    return short(value, WORDS)
