"""trimtab's own files: written aside, synced and renamed, so that under its own name a file is whole; read back
with a checksum, so that what the disk or a hand did to one is seen; and a disk that takes no more said in words.

Checksums are XXH3's, 128 bits: they cost less than reading the file, and guard against accidents, not forgers.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue

Sums = dict[str, list[str | int]]
"""Name inside a folder -> [bytes, checksum]."""
SUMS = "checksums.json"
"""In a folder that was written whole: its files' sums."""
CHECKSUM = "checksum"
"""In a JSON file: of all that is beside it."""
BLOCK = 2**22
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
REFUSALS = FULL | {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
    errno.ENAMETOOLONG: "its path is too long",
    errno.EFBIG: "it is larger than files may be there",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EISDIR: "it is a folder",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the network folder was taken away",
}
FULL_TEXTS = ("No space left on device", "os error 28", "database or disk is full", "Disk quota exceeded")
"""Libraries raise errors of their own, which hold the system's words."""
CUT_TEXTS = ("PytorchStreamWriter failed", "unexpected pos")
"""What torch says where a write failed, whatever the reason."""
LITTLE = 2**24
"""Bytes that are left on a disk that is as good as full."""


# ---- why a write failed


def refusal(error: BaseException | None, path: Path | None = None) -> str | None:
    """Why the system takes no more, in words; None for any other error. Looks into what caused it, too."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        if isinstance(error, OSError) and error.errno in REFUSALS:
            return f"{REFUSALS[error.errno]} ({error.strerror})"
        if any(words in text for words in FULL_TEXTS):
            return "the disk is full (No space left on device)"
        if path is not None and any(words in text for words in CUT_TEXTS) and _is_full(path):
            return "the disk is full (No space left on device)"
        if path is not None and any(words in text for words in CUT_TEXTS):
            return "the disk took only a part of it"
        error = error.__cause__ or error.__context__
    return None


def _is_full(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free < LITTLE
    return False


def refused(path: Path | str, reason: str) -> TrimtabError:
    """The one line for a write that failed."""
    cure = "Free some room" if any(words in reason for words in FULL.values()) else "Mend that"
    return TrimtabError(f"{path}: cannot be written: {reason}. {cure}; the same command goes on.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes `path`: a TrimtabError that names it where the system takes no more."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as error:
        reason = refusal(error, path)
        if reason is None:
            raise
        raise refused(path, reason) from error


def make_folder(path: Path) -> None:
    """A folder to write to, with those above it. TrimtabError where there is a file, or none can be made."""
    for part in (path, *path.parents):
        if os.path.exists(part):
            if not part.is_dir():
                raise TrimtabError(f"{part}: is a file. Name a folder for --out.")
            break
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


# ---- one file


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def aside_of(path: Path) -> Path:
    """Where a file or folder is written before it has its name; `clear_leftovers` knows the pattern."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a file aside, syncs it, and gives it its name."""
    aside = aside_of(path)
    with writing(path):
        try:
            write(aside)
            sync(aside)
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8 as write_file does: whole, or not at all."""
    write_file(path, lambda aside: aside.write_text(text, encoding="utf-8", newline="\n"))


def append_text(path: Path, text: str) -> None:
    """Not atomic: a kill or a full disk may leave half a line at the end."""
    with writing(path), path.open("a", encoding="utf-8", newline="\n") as out:
        out.write(text)


def write_json(path: Path, value: Mapping[str, JsonValue]) -> None:
    """A JSON object with a checksum of itself. Each value as it reads back: lists for tuples."""
    clean = json.loads(json.dumps(value, ensure_ascii=False))
    clean.pop(CHECKSUM, None)
    write_text(path, json.dumps(clean | {CHECKSUM: _sum_of(clean)}, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str) -> JsonObject:
    """What `write_json` wrote; one without a checksum is taken as it is. TrimtabError, with the remedy, where the
    file is gone, is no JSON or was changed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrimtabError(f"{path}: is not there. {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise TrimtabError(f"{path}: is damaged: it is no JSON ({error}). {remedy}") from None
    except OSError as error:
        raise TrimtabError(f"{path}: cannot be read: {error.strerror}. {remedy}") from None
    if not isinstance(value, dict):
        raise TrimtabError(f"{path}: is damaged: it holds no JSON object. {remedy}")
    stored_sum = value.pop(CHECKSUM, None)
    if stored_sum is not None and stored_sum != _sum_of(value):
        raise TrimtabError(f"{path}: was changed, or is damaged: its checksum is another. {remedy}")
    return value


def _sum_of(value: Mapping[str, JsonValue]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


# ---- what a folder is for


def difference(stored: JsonObject, current: JsonObject) -> str:
    """Names what differs, down to the setting."""
    names = []
    for part, value in current.items():
        other = stored.get(part)
        if isinstance(value, dict) and isinstance(other, dict):
            names += [f"{part}.{k}" for k in {**other, **value} if value.get(k) != other.get(k)]
        elif value != other:
            names.append(part)
    return "its " + ", ".join(names) + " differ" if names else "its inputs differ"


# ---- checksums


def checksum(path: Path, length: int | None = None) -> str:
    """Of a file, or of its first `length` bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        left = length
        while block := stream.read(BLOCK if left is None else min(BLOCK, left)):
            digest.update(block)
            left = None if left is None else left - len(block)
    return digest.hexdigest()


def sums_of(folder: Path, names: Iterable[str] | None = None) -> Sums:
    """Of the files named, or of all below the folder."""
    every = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) if names is None else names
    return {name: [(folder / name).stat().st_size, checksum(folder / name)] for name in sorted(every)}


def damage(folder: Path, sums: Mapping[str, JsonValue]) -> str | None:
    """What became of a folder's files since their sums were taken: the first that is gone or changed, in words."""
    for name, (size, stored_sum) in sums.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is gone"
        size_now = file.stat().st_size
        if size_now != size:
            return f"{file} has {size_now:,} bytes, and had {size:,} when it was written"
        if checksum(file) != stored_sum:
            return f"{file} is not what was written (its checksum is another)"
    return None


# ---- a folder that is written whole


def write_directory(target: Path, write: Callable[[Path], object], sums: bool = False) -> None:
    """Has `write` fill a directory aside, syncs it, and renames it to `target`. sums: puts its files' checksums
    into it. What a failure leaves aside is removed, so that a full disk has its room back."""
    make_folder(target.parent)
    aside = target.with_name(f".{target.name}.tmp")
    with writing(target):
        try:
            if aside.exists():
                shutil.rmtree(aside)
            aside.mkdir()
            write(aside)
            if sums:
                write_json(aside / SUMS, {"files": sums_of(aside)})
            allowed = aside.stat().st_mode & 0o666  # what the umask leaves: safetensors keeps files to their owner
            for path in sorted(aside.rglob("*")):
                if path.is_file():
                    path.chmod(allowed)
                sync(path)
            sync(aside)
            if target.exists():
                # Another kill between these two lines leaves no target: the caller's inputs are still there.
                shutil.rmtree(target)
            aside.rename(target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def written_damage(folder: Path) -> str | None:
    """What is wrong with a folder that `write_directory` wrote with sums, in words; None where all is as written,
    and for one without sums, of which nothing is known."""
    if not folder.is_dir():
        return f"{folder} is gone"
    if not (folder / SUMS).is_file():
        return None
    try:
        listed = read_json(folder / SUMS, "")
        return damage(folder, listed["files"])
    except TrimtabError as error:
        return str(error).strip(" .")
    except (KeyError, TypeError, ValueError):
        return f"{folder / SUMS} is damaged"


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed run was about to write. Only for one that holds a folder of trimtab's own."""
    for pattern in (".*.tmp", "*.part", ".*.part", "*.tmp"):
        for path in list(folder.rglob(pattern)):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
