"""SIGTERM and SIGHUP, which schedulers and closed terminals send: a run ends where it can go on.

Training looks at the end of each step (`asked`), writes a checkpoint and stops; what takes longer than GRACE
seconds, and all that is no training, is left at once, as with Ctrl-C: everything on disk is written to be killed.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


GRACE = 10.0
"""Seconds from the signal to the end: what a scheduler gives at least before it kills."""
TWICE = 1.0
"""Seconds in which a second signal is the same one: a scheduler's to all, and a launcher's to its children."""
SENTENCE = "stopped; the same command goes on from the last checkpoint"


class Stopped(KeyboardInterrupt):
    """Someone wants the run to end. signum: the signal that said so. As Ctrl-C: nobody takes it for an error."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that this signal ended."""
        return 128 + self.signum


_asked: tuple[int, float] | None = None
"""The first signal, and when it came."""
_patient = 0
"""How many are there that look at `asked`."""


@contextmanager
def listening() -> Iterator[None]:
    """Takes the signals over. Those that the process was told to ignore (nohup) stay ignored."""
    global _asked, _patient
    _asked, _patient = None, 0
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, _heard)
    try:
        yield
    finally:
        if _asked and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _heard(signum: int, frame: FrameType | None) -> None:
    global _asked
    now = time.monotonic()
    if signum == signal.SIGINT or not _patient:
        _asked = _asked or (signum, now)
        raise Stopped(signum)
    if _asked is None:
        _asked = (signum, now)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, _late)
            signal.setitimer(signal.ITIMER_REAL, GRACE)
    elif now - _asked[1] > TWICE:
        raise Stopped(signum)


def _late(signum: int, frame: FrameType | None) -> None:
    raise Stopped(_asked[0] if _asked else signal.SIGTERM)


def asked() -> int | None:
    """The signal that asked this process to stop; None: nothing did."""
    return _asked[0] if _asked else None


@contextmanager
def patiently() -> Iterator[None]:
    """Inside, a first signal only asks: whoever is inside looks at `asked`, and leaves with Stopped."""
    global _patient
    _patient += 1
    try:
        yield
    finally:
        _patient -= 1


def is_first_process() -> bool:
    """Of the processes of one launcher (torchrun) the one that speaks, and that holds folders."""
    return os.environ.get("RANK", "0") == "0"
