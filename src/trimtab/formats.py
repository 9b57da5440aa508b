"""Numbers as text for people, in tables, sentences and cards alike; files for programs hold them raw."""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "–"
"""Stands where there is no number."""
UNITS = ("B", "KiB", "MiB", "GiB")


def number(value: float | None, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A number with a true minus sign; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{scale * value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share, as in "61.9 %"."""
    return f"{number(share, 1, 100)} %"


def points(difference: float) -> str:
    """A difference of two shares, as in "+19.6 points"."""
    return f"{number(difference, 1, 100, sign=True)} points"


def with_interval(
    value: float | None, ends: tuple[float, float] | None, digits: int = 1, scale: float = 1.0, sign: bool = False
) -> str:
    """A number and the ends of its interval, as in "59.3 [52.4, 66.1]"."""
    text = number(value, digits, scale, sign)
    if value is None or ends is None:
        return text
    return f"{text} [{number(ends[0], digits, scale, sign)}, {number(ends[1], digits, scale, sign)}]"


def interval_text(ends: tuple[float, float] | None, scale: float = 100, digits: int = 1, sign: bool = False) -> str:
    """An interval in a sentence, each end times `scale`, as in "15.4 to 23.7"."""
    if ends is None:
        return NONE
    return f"{number(ends[0], digits, scale, sign)} to {number(ends[1], digits, scale, sign)}"


def p_value(p: float | None) -> str:
    """A p-value in a column of its own, as in "0.012" or "< 0.001"."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_text(p: float) -> str:
    """A p-value in a sentence, as in "p = 0.012" or "p < 0.001"."""
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"


def duration(seconds: float | None) -> str:
    """A measured time, as in "1 h 02 min", "3 min 20 s" or "12.3 s"; "–" where there is none."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rough_duration(seconds: float) -> str:
    """An estimated time in one unit, as in "2.5 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def byte_size(count: float | None) -> str:
    """A number of bytes in powers of 1,024, as in "12 MiB" or "1.50 GiB"; "–" where there is none."""
    if count is None:
        return NONE
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.2f} {UNITS[power]}" if UNITS[power] == "GiB" else f"{count:.0f} {UNITS[power]}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, as in "SFT, DPO and GRPO"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 vote", "1,200 votes". many: where it is not made by an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
