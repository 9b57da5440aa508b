"""GGUF files where a model is named: which file is meant, and the folder that it is dequantised into, once.

The folder, `CACHE/gguf/HASH/NAME`, is a plain Hugging Face folder in float32. HASH is of the file's content, so
that a file is read once wherever it lies, and NAME is the file's; CACHE is $TRIMTAB_CACHE, or trimtab in the
user's cache folder. Beside it `origin.json` says how the weights were quantised.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from trimtab.data.adapters import expand_home, is_adapter, model_weights
from trimtab.data.hashing import hash_content
from trimtab.errors import TrimtabError, reason_of
from trimtab.files import write_directory, write_json
from trimtab.folder_lock import waiting_for
from trimtab.models.hub import reach_hub
from trimtab.notices import say

END = ".gguf"
VARIABLE = "TRIMTAB_CACHE"
READING = 1
"""Counts up where the same file gives another folder."""
ORIGIN = "origin.json"


def model_place(source: str) -> str:
    """The folder or hub name that a model's source stands for: ~ written out, and for a GGUF file the folder
    with its weights in float32, which is made where it is not there yet. TrimtabError where the file cannot be
    read."""
    source = expand_home(source)
    file = gguf_of(source)
    return source if file is None else str(dequantised(file))


def gguf_of(source: str) -> Path | None:
    """The GGUF file that a source means: a file, a folder that holds one and no other weights, or a hub's file,
    OWNER/NAME/FILE.gguf, which is downloaded. None for any other source."""
    path = Path(source)
    if path.is_dir():
        return _only_one(path)
    if not source.endswith(END):
        return None
    if path.is_file():
        return path
    parts = source.split("/")
    if path.is_symlink() or source.startswith((".", "/")) or len(parts) < 3:
        raise TrimtabError(f"model {source}: no such file. Give a {END} file, or OWNER/NAME/FILE{END} of the hub.")
    return _from_hub("/".join(parts[:2]), "/".join(parts[2:]), source)


def _only_one(folder: Path) -> Path | None:
    """The one GGUF file of a folder without other weights. TrimtabError where it has several."""
    files = sorted(folder.glob(f"*{END}"))
    if not files or model_weights(folder) or is_adapter(str(folder)):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3]) + (", …" if len(files) > 3 else "")
        raise TrimtabError(f"model {folder}: holds {len(files)} GGUF files ({names}). Name one of them.")
    return files[0]


def _from_hub(repository: str, name: str, source: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        reach_hub(repository, name)
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # the library raises whatever it likes
        raise TrimtabError(
            f"model {source}: there is no such file here, and from the hub: {reason_of(error)}"
        ) from error


def cache_folder() -> Path:
    """Where trimtab keeps what it makes of files that are not its own."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trimtab"


def dequantised(file: Path) -> Path:
    """The folder of a GGUF file's model in float32, written where it is not there yet: whole, or not at all."""
    state = file.stat()
    digest = _hash(str(file.resolve()), state.st_size, state.st_mtime_ns)
    target = cache_folder() / "gguf" / f"{digest}-{READING}" / file.name.removesuffix(END)
    if target.is_dir():
        return target
    from trimtab.models.gguf.read import write_folder  # loads transformers

    def write(folder: Path) -> None:
        facts = write_folder(file, folder)
        write_json(target.parent / ORIGIN, facts)

    with waiting_for(target):
        if not target.is_dir():
            say(f"{file.name}: a GGUF file; its weights are written in float32 to {target}, once")
            _write_once(target, write)
    return target


def _write_once(target: Path, write: Callable[[Path], None]) -> None:
    """A directory that may be written by several processes at once: the first stays."""
    ours = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        write_directory(ours, write)
        with suppress(OSError):  # another process was faster
            ours.rename(target)
    finally:
        shutil.rmtree(ours, ignore_errors=True)


@lru_cache(maxsize=64)
def _hash(path: str, size: int, changed: int) -> str:
    """A file's hash; asked once for a state of it, which its size and time of change stand for."""
    del size, changed
    return hash_content(Path(path))


def origin_of(place: str) -> str | None:
    """Of a folder that was made from a GGUF file: how that was quantised and what it is called, as in "Q4_1,
    file NAME.gguf". None for any other."""
    folder = Path(place)
    try:
        facts = json.loads((folder.parent / ORIGIN).read_text(encoding="utf-8"))
        return f"{facts['quantisation']}, file {folder.name}{END}" if folder.is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
