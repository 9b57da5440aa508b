"""SIGTERM and SIGHUP: asked for at the end of a step, taken at once everywhere else."""

from __future__ import annotations

import os
import signal
import time

import pytest

from trimtab import stopping
from trimtab.stopping import Stopped, asked, listening, patiently

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])


def send(number: int, wait: float = 0.0) -> None:
    os.kill(os.getpid(), number)
    time.sleep(wait)


@BOTH
def test_at_once_where_nobody_looks(number: int) -> None:
    with listening(), pytest.raises(Stopped) as stop:
        send(number, wait=1)
    assert stop.value.exit_code == 128 + number
    assert isinstance(stop.value, KeyboardInterrupt)


@BOTH
def test_only_asks_where_somebody_looks(number: int) -> None:
    with listening(), patiently():
        assert asked() is None
        send(number)
        send(number)  # a launcher's, right behind the scheduler's
        assert asked() == number


def test_a_second_one_is_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "TWICE", 0.0)
    with listening(), patiently():
        send(signal.SIGTERM, wait=0.01)
        with pytest.raises(Stopped):
            send(signal.SIGTERM, wait=1)


def test_nobody_waits_longer_than_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    try:
        with listening(), patiently(), pytest.raises(Stopped) as stop:
            send(signal.SIGHUP, wait=5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stop.value.exit_code == 129


def test_ctrl_c_stays_what_it_is() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    try:
        with listening(), patiently(), pytest.raises(KeyboardInterrupt) as stop:
            send(signal.SIGINT, wait=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(stop.value, Stopped)
    assert stop.value.exit_code == 130


def test_what_was_ignored_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ours = signal.getsignal(signal.SIGTERM)
    try:
        with listening():
            send(signal.SIGHUP)
            assert asked() is None
            assert signal.getsignal(signal.SIGTERM) != ours
        assert signal.getsignal(signal.SIGTERM) == ours
    finally:
        signal.signal(signal.SIGHUP, before)
