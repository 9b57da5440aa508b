"""What ended a command, in one message, where it is no fault of trimtab's own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trimtab.errors import TrimtabError, first_line, is_out_of_memory
from trimtab.files import refusal

SMALLER = (
    "Lower token_budget or set gradient_checkpointing=true: neither changes what is trained, and the same command "
    "with it goes on from the last checkpoint. (A lower data.max_length is another run.)"
)


def in_words(error: BaseException) -> str | None:
    """What a dead end is; None for anything else."""
    if isinstance(error, TrimtabError):
        return str(error)
    if isinstance(error, PermissionError) and _may_not_read(error.filename):
        return f"{error.filename}: cannot be read: there is no permission to read it ({error.strerror})."
    if reason := refusal(error):
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return f"{where}cannot be written: {reason}. Mend that; the same command goes on."
    on_device = type(error).__name__ == "OutOfMemoryError"  # torch's, without importing torch to say so
    if on_device or is_out_of_memory(error):
        return f"out of memory{' on the device' * on_device}. {SMALLER} ({first_line(error)})"
    return str(error) if isinstance(error, OSError | json.JSONDecodeError) else None


def _may_not_read(path: object) -> bool:
    """Of a file that is there; a folder may be written to, and not entered."""
    return isinstance(path, str) and os.path.exists(path) and not os.access(path, os.R_OK)


@contextmanager
def as_trimtab_errors() -> Iterator[None]:
    """Around what another program calls: every dead end that the command puts into words is a TrimtabError."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as error:
        if (words := in_words(error)) is None:
            raise
        raise TrimtabError(words) from error


def flush() -> None:
    """Whoever read our output may have gone, as `head` does: then the interpreter has nothing to complain of."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
