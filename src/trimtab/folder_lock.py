"""One process, or the processes of one launcher, in a folder at a time.

The holder's file `.trimtab.lock` says who it is, and is touched every few seconds. It is made with link(), which
is atomic on network file systems too, where flock() is not to be trusted. A holder that is gone is seen: on this
machine by its process id and start time, elsewhere by the age of its last sign of life, measured with the file
system's own clock.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.files import make_folder, refusal, refused
from trimtab.json_types import JsonObject
from trimtab.stopping import is_first_process

LOCK = ".trimtab.lock"
BEAT = 10.0
"""Seconds between two signs of life."""
STALE = 120.0
"""Seconds without one, after which a holder on another machine is gone."""

LOOK = 0.5
"""Seconds between two looks at a folder that is waited for."""


class HeldError(TrimtabError):
    """Another process holds the folder."""


_held: dict[tuple[int, Path], int] = {}
"""(process id, lock) -> how many of this process hold it."""


@contextmanager
def holding(folder: Path, beside: bool = False) -> Iterator[None]:
    """Holds a folder, which is made where it is not there; this process may do so again inside.

    beside: the lock is a file next to the folder, which must stay empty or not be there. TrimtabError, which says
    who, where another process holds it.
    """
    if not is_first_process():  # its launcher's first process holds it for all
        yield
        return
    where = folder.absolute()
    lock = where.with_name(f".{where.name}{LOCK}") if beside else where / LOCK
    entry = (os.getpid(), lock)
    if entry in _held:
        _held[entry] += 1
        try:
            yield
        finally:
            _held[entry] -= 1
        return
    new_folder = not os.path.exists(lock.parent)
    make_folder(lock.parent)
    token = _take(lock, folder)
    if token is None:  # a folder that nobody can write to
        yield
        return
    _held[entry] = 1
    ended = threading.Event()
    threading.Thread(target=_beat, args=(lock, token, folder, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        del _held[entry]
        if (_read(lock) or {}).get("token") == token:
            with suppress(OSError):
                lock.unlink()
        if new_folder:
            with suppress(OSError):  # a command that found a mistake before it wrote leaves no empty folder
                lock.parent.rmdir()


@contextmanager
def waiting_for(folder: Path) -> Iterator[None]:
    """Holds a folder by a lock beside it, as soon as no other process does."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(holding(folder, beside=True))
                break
            except HeldError:
                time.sleep(LOOK)
        yield


def _take(lock: Path, folder: Path) -> str | None:
    """Makes the lock ours. Returns its token; None in a folder that this process cannot write to."""
    mine = {**_myself(), "token": uuid.uuid4().hex}
    ours = lock.with_name(f".{mine['token']}.tmp")
    try:
        ours.write_text(json.dumps(mine), encoding="utf-8")
    except PermissionError:
        return None
    except OSError as error:
        if refusal(error) is None:
            raise
        if "read-only" in str(refusal(error)):
            return None
        raise refused(folder, str(refusal(error))) from error
    try:
        for _ in range(10):
            if _put(ours, lock):
                return str(mine["token"])
            holder, age = _read(lock), _age(lock, ours)
            if age is None:
                continue  # gone in the meantime
            if _lives(holder, age):
                raise HeldError(_told(folder, lock, holder, age))
            _remove(lock, holder, str(mine["token"]))
    finally:
        with suppress(OSError):
            ours.unlink()
    raise TrimtabError(f"{folder}: several processes want it at once. Run the command again.")


def _put(ours: Path, lock: Path) -> bool:
    """Gives the finished file its second name, if nobody has it."""
    try:
        os.link(ours, lock)
    except FileExistsError:
        return False
    except OSError:  # no links on this file system
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(ours.read_text(encoding="utf-8"))
    return True


def _remove(lock: Path, expected: JsonObject | None, token: str) -> None:
    """Takes a dead holder's lock away. Of several that try, one renames it; whoever gets a living one instead puts
    it back."""
    away = lock.with_name(f".{token}.dead.tmp")
    with suppress(OSError):
        lock.rename(away)
        if _read(away) != expected:
            with suppress(OSError):
                os.link(away, lock)
        away.unlink()


def _myself() -> JsonObject:
    pid = os.getpid()
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": pid,
        "started": _started(pid),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(["trimtab", *sys.argv[1:2]]),
    }


def _machine() -> str:
    """What process ids are unique in: a boot of a machine, and inside it a container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def _started(pid: int) -> str | None:
    """When a process started, so that another with its number is told from it; None where the system says nothing,
    "" where there is no such process."""
    if not Path("/proc/self/stat").exists():
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _lives(holder: JsonObject | None, age: float) -> bool:
    """Whether a lock's holder still runs. age: seconds since its last sign of life."""
    if holder is None or holder.get("machine") != _machine():
        return age < STALE
    started = _started(int(holder["pid"]))
    if started is not None:
        return started == holder.get("started")
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read(lock: Path) -> JsonObject | None:
    """What a lock says; None where it says nothing."""
    try:
        value = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_holder = isinstance(value, dict) and isinstance(value.get("pid"), int) and "machine" in value
    return value if is_holder else None


def _age(lock: Path, ours: Path) -> float | None:
    """Seconds since the lock was touched, by the clock of the file system that both files are on."""
    try:
        os.utime(ours)
        return max(0.0, ours.stat().st_mtime - lock.stat().st_mtime)
    except OSError:
        return None


def _told(folder: Path, lock: Path, holder: JsonObject | None, age: float) -> str:
    if holder is None:
        return f"{folder}: another process writes to it. If none does, remove {lock}."
    who = f"{holder.get('command', 'trimtab')}, process {holder['pid']} on {holder.get('host', 'another machine')}"
    told = f"{folder}: another process writes to it ({who}, since {holder.get('since', 'some time')})."
    if holder.get("machine") != _machine():
        told += f" Its last sign of life is {age:.0f} s old; {STALE:.0f} s without one free the folder."
    return told + " Wait until it has ended, or choose another output folder."


def _beat(lock: Path, token: str, folder: Path, ended: threading.Event) -> None:
    """Touches the lock until the end. Whoever lost it to another process stops: two writers spoil a folder."""
    while not ended.wait(BEAT):
        holder = _read(lock)
        if holder is not None and holder.get("token") != token:
            if not ended.is_set():
                print(f"{folder}: taken over by process {holder['pid']} on {holder.get('host')}", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
            return
        with suppress(OSError):
            if holder is None and not lock.exists() and lock.parent.is_dir():
                lock.write_text(json.dumps({**_myself(), "token": token}), encoding="utf-8")
            os.utime(lock)
