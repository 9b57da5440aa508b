"""One holder of a folder at a time: living ones are named, dead ones are followed, and none is left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab import folder_lock
from trimtab.errors import TrimtabError
from trimtab.folder_lock import LOCK, STALE, holding


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A living process of this machine."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def write_lock(folder: Path, age: float = 0.0, **facts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    ours = folder_lock._myself() | {"token": "theirs", "command": "trimtab dpo"}
    lock = folder / LOCK
    lock.write_text(json.dumps(ours | facts))
    then = time.time() - age
    os.utime(lock, (then, then))
    return lock


def refusal(folder: Path) -> str:
    with pytest.raises(TrimtabError) as told, holding(folder):
        pass
    return str(told.value)


def test_it_is_held_inside_and_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with holding(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        with holding(folder):
            assert (folder / LOCK).exists()
        assert (folder / LOCK).exists(), "the inner one must not let go"
        (folder / "result").touch()
    assert [p.name for p in folder.iterdir()] == ["result"]


def test_a_command_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mistake"), holding(tmp_path / "run"):
        raise ValueError("mistake")
    assert not (tmp_path / "run").exists()


def test_a_living_holder_is_named(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    write_lock(tmp_path, pid=other.pid, started=folder_lock._started(other.pid), age=9999)
    told = refusal(tmp_path)
    assert f"trimtab dpo, process {other.pid} on {platform.node()}, since 20" in told
    assert (tmp_path / LOCK).exists()


def test_a_dead_one_on_this_machine_is_followed_at_once(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()
    write_lock(tmp_path, pid=other.pid)
    with holding(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="start times are read from /proc")
def test_another_process_with_its_number_is_not_it(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    write_lock(tmp_path, pid=other.pid, started="1")
    with holding(tmp_path):
        pass


def test_on_another_machine_the_last_sign_of_life_counts(tmp_path: Path) -> None:
    far = {"host": "node7", "machine": "node7|boot", "pid": 4}
    write_lock(tmp_path, age=STALE / 2, **far)
    told = refusal(tmp_path)
    assert "process 4 on node7" in told
    assert "60 s old" in told
    write_lock(tmp_path, age=STALE + 1, **far)
    with holding(tmp_path):
        pass


def test_a_lock_that_says_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{")
    assert f"remove {tmp_path / LOCK}" in refusal(tmp_path)
    os.utime(tmp_path / LOCK, (1, 1))
    with holding(tmp_path):
        pass


def contend(folder: str, gate: Any, won: Any) -> None:
    gate.wait()
    try:
        with holding(Path(folder)):
            won.put(os.getpid())
            time.sleep(1.0)
    except TrimtabError:
        won.put(None)


def test_of_many_that_follow_a_dead_one_exactly_one_gets_it(tmp_path: Path) -> None:
    write_lock(tmp_path, age=STALE + 1, machine="gone")
    context = multiprocessing.get_context("fork")
    gate, won = context.Barrier(6), context.Queue()
    many = [context.Process(target=contend, args=(str(tmp_path), gate, won)) for _ in range(6)]
    for one in many:
        one.start()
    found = [won.get(timeout=30) for _ in many]
    for one in many:
        one.join()
    assert sum(pid is not None for pid in found) == 1
    assert list(tmp_path.iterdir()) == []


def test_where_no_links_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    with holding(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_signs_of_life_and_a_lock_that_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    with holding(tmp_path):
        lock = tmp_path / LOCK
        os.utime(lock, (1, 1))
        wait(lambda: lock.stat().st_mtime > 1)
        lock.unlink()
        wait(lambda: folder_lock._read(lock) is not None)  # and written to its end
        write_lock(tmp_path, token="another")
        wait(lambda: killed == [signal.SIGTERM])
    assert (tmp_path / LOCK).exists(), "it is the other's now"
    assert threading.active_count() < 20


def wait(reached: Any) -> None:
    until = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_only_the_first_process_of_a_launcher_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    write_lock(tmp_path, machine="elsewhere")
    with holding(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["token"] == "theirs"


def test_beside_a_folder_that_must_be_empty(tmp_path: Path) -> None:
    with holding(tmp_path / "model", beside=True):
        assert not (tmp_path / "model").exists()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert refusal(place) == f"{tmp_path / 'file'}: is a file. Name a folder for --out."
    assert "too long" in refusal(tmp_path / ("x" * 300))
