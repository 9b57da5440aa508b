"""What was made of many rows, kept in a folder as Arrow files that are mapped and not read.

A folder is named by a hash of all that its content depends on, is written whole or not at all, and holds its files'
checksums: what the disk or a hand did to one is seen, said, and made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.data.hashing import hash_source
from trimtab.files import SUMS, write_directory, written_damage
from trimtab.folder_lock import waiting_for
from trimtab.json_types import JsonValue
from trimtab.notices import warn

LIBRARIES = ("tokenizers", "transformers", "jinja2")
"""Those whose version may change what becomes of a row."""


def key_of(*parts: JsonValue) -> str:
    """A hash of these, of this room's code and of the libraries that it relies on."""
    text = json.dumps([_code(), *parts], sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@cache
def _code() -> list[str]:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return [*map(hash_source, map(str, sources)), *map(version, LIBRARIES)]


def kept_folder(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder as `make` filled it, now or before. Of several processes that want it one makes it."""
    with waiting_for(folder):
        if folder.is_dir():
            wrong = written_damage(folder) if (folder / SUMS).is_file() else f"{folder / SUMS} is gone"
            if wrong is None:
                return folder
            warn(f"prepared rows: {wrong}: they are prepared anew", about=f"prepared rows {folder.name}")
        write_directory(folder, make, sums=True)
    return folder


def write_batches(file: Path, schema: Any, batches: Iterable[Any]) -> None:
    """Writes Arrow record batches as they come."""
    import pyarrow as pa

    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


class ArrowFile:
    """A file's record batches, mapped: only what is looked at is in memory. A pickled one is opened anew.

    What goes through all of them reads (`read`): of a map, all that was ever looked at would be in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    @cached_property
    def batches(self) -> list[Any]:
        """The file's record batches, each with its columns by name."""
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
        return [reader.get_batch(place) for place in range(reader.num_record_batches)]

    @cached_property
    def starts(self) -> Any:
        """Which row each batch begins with, and the number of all rows."""
        return np.cumsum([0, *(len(batch) for batch in self.batches)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def find(self, row: int) -> tuple[int, int]:
        """A row's batch, and its place there."""
        batch = int(np.searchsorted(self.starts, row, side="right")) - 1
        return batch, row - int(self.starts[batch])

    def read(self) -> Callable[[int], Any]:
        """What reads one batch after the other into memory."""
        import pyarrow as pa

        get_batch: Callable[[int], Any] = pa.ipc.open_file(pa.OSFile(str(self.path))).get_batch
        return get_batch

    def numbers(self, name: str) -> Any:
        """A column of numbers as one array, in memory."""
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for batch in self.batches]
        return np.concatenate(columns) if columns else np.empty(0)
