"""Hashes of what results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.data.folders import front_matter_configs
from trimtab.data.vote_file import hash_votes, is_vote_file
from trimtab.errors import TrimtabError
from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor


def hash_source(source: str, nested: bool = False) -> str:
    """A hash of a file's or model folder's content; a hub name stands for itself.

    A folder's README.md, its card, changes nothing that it holds, and is left out. nested: folders inside it
    too, as data sets have them (links to folders are not followed: they may lead back).
    """
    try:
        return _hash(Path(source).expanduser(), source, nested)
    except OSError as error:
        raise TrimtabError(f"{error.filename or source}: cannot be read ({error.strerror}).") from None


def _hash(path: Path, source: str, nested: bool) -> str:
    if not path.exists():
        return source
    digest = hashlib.blake2b(digest_size=16)
    if nested and (path / "README.md").is_file():
        # Of a data set's card only what says which files are read.
        card = (path / "README.md").read_text(encoding="utf-8", errors="replace")
        digest.update(front_matter_configs(card).encode("utf-8", "surrogatepass"))
    inside = path.rglob("*") if nested else path.iterdir() if path.is_dir() else ()
    files = sorted(file for file in inside if file.is_file() and file.name != "README.md")
    for file in [path] if path.is_file() else files:
        digest.update((file.relative_to(path).as_posix() if nested and file != path else file.name).encode())
        if is_vote_file(file) and file == path:
            digest.update(hash_votes(file))
            continue
        with file.open("rb") as stream:
            while block := stream.read(2**22):
                digest.update(block)
    return digest.hexdigest()


def hash_content(file: Path) -> str:
    """A hash of a file's bytes, whatever it is called."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """A hash of every weight's name, shape and value."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
