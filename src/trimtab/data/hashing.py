"""Hashes of what results depend on."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_source(source: str) -> str:
    """A model folder's or file's content; a hub name stands for itself. A folder's README.md, its model card,
    changes nothing that the model does, and is left out."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    digest = hashlib.blake2b(digest_size=16)
    inside = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    if path.is_dir():
        inside = [file for file in inside if file.name != "README.md"]
    for file in inside:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(2**22):
                digest.update(block)
    return digest.hexdigest()
