"""The command that runs, as a report shows it: without keys or passwords."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

HIDDEN = "(hidden)"
_KEY = re.compile(
    r"(?i)((?:^|[\s._\-{,\"'])(?:api[_-]?key|(?:access|auth|hf)[_-]?token|secret|password|passwd)[\"']?\s*[=:]\s*).+"
)
_SHAPES = re.compile(r"\b(?:sk|hf|nvapi|ghp|xoxb)[-_][A-Za-z0-9_\-]{8,}")
_USER, _QUERY = re.compile(r"://[^/@\s]*@"), re.compile(r"(://[^?#\s]*)[?#][^\s\"',}\]]*")


def without_secrets(text: str) -> str:
    """A text in which nothing that looks like a key or a password is left: not in an address either."""
    text = _KEY.sub(rf"\1{HIDDEN}", text)
    text = _SHAPES.sub(HIDDEN, _USER.sub("://", text))
    return _QUERY.sub(r"\1", text)


def command_line(argv: Sequence[str] | None = None) -> str | None:
    """The command that runs, as one would type it; None where another program calls trimtab's functions."""
    program, *rest = sys.argv if argv is None else argv
    if Path(program).name not in ("trimtab", "__main__.py"):
        return None
    hidden, out = False, []
    for argument in rest:
        out.append(HIDDEN if hidden else without_secrets(argument))
        hidden = bool(re.fullmatch(r"(?i)--?(?:api-?key|token|password|secret)", argument))
    return shlex.join(["trimtab", *out])


def today() -> str:
    """The minute at which a report is made, in UTC."""
    return datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
