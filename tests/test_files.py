"""What is written is whole, what was changed is seen, and a disk that takes no more is said in words."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from trimtab import files
from trimtab.dead_ends import in_words
from trimtab.errors import TrimtabError
from trimtab.files import SUMS, read_json, refusal, write_directory, write_json, written_damage


def test_json_knows_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"steps": (1, 2), "é": float("1e300")})
    assert read_json(file, "Mend.") == {"steps": [1, 2], "é": 1e300}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    text, known = file.read_text(), {"steps": [1, 2], "é": 1e300}
    for place in range(len(text)):
        for other in ("0", "x"):
            file.write_text(text[:place] + other + text[place + 1 :])
            told, found = outcome(file)
            # Else white space was changed, or the name of the checksum.
            assert "a.json: " in told if found is None else {name: found[name] for name in known} == known


def outcome(file: Path) -> tuple[str, dict[str, object] | None]:
    try:
        return "", read_json(file, "Mend.")
    except TrimtabError as error:
        return str(error), None


def test_json_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"key": 1}')
    assert read_json(tmp_path / "a.json", "") == {"key": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\0\0", "[" * 100_000])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TrimtabError, match=r"a\.json: is damaged.*Mend\.$"):
        read_json(tmp_path / "a.json", "Mend.")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(TrimtabError, match=r"a\.json: is damaged"):
        read_json(tmp_path / "a.json", "Mend.")


def test_a_folder_that_was_written_whole(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_bytes(b"abc")
        (folder / "b").write_bytes(bytes(1000))

    target = tmp_path / "deep" / "step"
    write_directory(target, write, sums=True)
    assert written_damage(target) is None
    (target / "b").write_bytes(bytes(999) + b"\1")
    assert "b is not what was written" in str(written_damage(target))
    (target / "b").write_bytes(b"")
    assert "b has 0 bytes, and had 1,000" in str(written_damage(target))
    (target / "b").unlink()
    assert "b is gone" in str(written_damage(target))
    (target / SUMS).write_text("{}")
    assert SUMS in str(written_damage(target))


FULL = "No space left on device (os error 28)"
ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError(f"Error while serializing: I/O error: {FULL}"),
    RuntimeError(f"I/O error: {FULL}"),
    sqlite3.OperationalError("database or disk is full"),
    OSError(errno.EROFS, "Read-only file system"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_a_write_that_fails_names_file_and_reason(tmp_path: Path, error: Exception) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        try:
            raise error
        except Exception as inner:  # a library's own wrapping
            raise ValueError("could not save") from inner

    with pytest.raises(TrimtabError) as told:
        write_directory(tmp_path / "step", write)
    assert str(told.value).startswith(f"{tmp_path / 'step'}: cannot be written: the") or "path" in str(told.value)
    assert "the same command goes on" in str(told.value)
    assert list(tmp_path.iterdir()) == [], "its room is free again"


def test_any_other_error_stays(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_directory(tmp_path / "step", lambda folder: 1 / 0)
    assert refusal(ValueError("x")) is None
    assert refusal(OSError(errno.ENOENT, "no such file")) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(TrimtabError, match=r"metrics\.jsonl: cannot be written: the disk is full"):
        files.append_text(tmp_path / "metrics.jsonl", "{}\n")


def test_no_memory_in_words() -> None:
    cpu = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"
    )
    for error in (cpu, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")):
        said = str(in_words(error))
        assert said.startswith("out of memory")
        assert ". Lower token_budget or set gradient_checkpointing=true" in said
        assert "the same command with it goes on" in said
        assert "\n" not in said
    assert in_words(RuntimeError("shapes do not match")) is None
    assert in_words(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y")) == (
        "/x/y: cannot be written: the disk is full (No space left on device). Mend that; the same command goes on."
    )
