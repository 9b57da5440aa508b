"""The reference's log-probabilities, computed once and kept on disk.

Kept under a key of everything that they depend on: the weights, the token ids (which hold tokenizer,
template, truncation and data), and the precision. A hit is reused over epochs, runs and methods.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.data.groups import CompletionGroup, cut_places, pack
from trimtab.data.hashing import hash_weights
from trimtab.data.stored_groups import Lazy
from trimtab.errors import first_line
from trimtab.files import CHECKSUM, make_folder, write_file
from trimtab.models.policy import PolicyOutput
from trimtab.progress import Progress

CHUNK = 512
"""Groups in one file: a kill loses at most so many."""


def hash_groups(groups: Sequence[CompletionGroup]) -> str:
    """A hash of all token ids, and of where prompts and completions end."""
    digest = hashlib.blake2b(digest_size=16)
    for group in groups:
        for part in (group.prompt, *group.completions):
            _add(digest, part)
        if group.prompt_suffixes:  # nothing for groups without, so that what is on disk keeps its name
            digest.update(b"given")
            for part in group.prompt_suffixes:
                _add(digest, part)
        digest.update(b"|")
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, part: tuple[int, ...]) -> None:
    digest.update(len(part).to_bytes(4, "little"))
    digest.update(np.asarray(part, dtype=np.int32).tobytes())


def reference_key(weights: Mapping[str, Tensor], precision: str) -> str:
    """The name of what a reference gives: a hash of its weights and of the precision that it computes in."""
    return hashlib.blake2b(f"{hash_weights(weights)}|{precision}".encode(), digest_size=16).hexdigest()


def reference_logps(
    forward: Callable[..., PolicyOutput],
    groups: Sequence[CompletionGroup],
    folder: Path,
    key: str,
    token_budget: int,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> Sequence[Tensor]:
    """The reference's log-probabilities of each group's completion tokens, in the group's order.

    forward: the reference, as the trainer would call it (same precision). Returns float32 [tokens of
    the group] for each group, on the CPU; of groups that are not in memory these are not either.
    """
    out: list[Tensor] = []
    mapped = MappedLogps() if isinstance(groups, Lazy) else None
    with Progress("reference", len(groups), "groups") as progress:
        for lo in range(0, len(groups), CHUNK):
            part = groups[lo : lo + CHUNK]
            file = folder / f"{key}-{hash_groups(part)}.safetensors"
            sizes = [group.completion_tokens for group in part]
            flat, wrong = kept_numbers(file, sum(sizes)) if file.is_file() else (None, None)
            if wrong:
                report(f"reference: {file} {wrong}: it is computed anew")
            if flat is not None:
                progress.skip(len(part))
            else:
                flat = _compute(forward, part, token_budget, device, progress)
                make_folder(folder)
                keep_numbers(file, flat)
            if mapped is None:
                out += torch.split(flat, sizes)
            else:
                mapped.append(file, sizes)
    return out if mapped is None else mapped


class MappedLogps(Lazy[Tensor]):
    """The log-probabilities of groups in files of CHUNK groups each, the last with fewer: read from a map when they
    are asked for."""

    def __init__(self) -> None:
        self.files: list[Any] = []
        self.starts: list[NDArray[np.int64]] = []
        self.total = 0

    def append(self, file: Path, sizes: Sequence[int]) -> None:
        """Adds a file, which is held from now on: it may be removed. sizes: the tokens of each of its groups."""
        opened: Any = safe_open(file, "pt")
        self.files.append(opened.get_slice("logps"))
        self.starts.append(np.cumsum([0, *sizes]))
        self.total += len(sizes)

    def __len__(self) -> int:
        return self.total

    def make(self, place: int) -> Tensor:
        """The log-probabilities of the group at this place, [M]."""
        chunk, row = divmod(place, CHUNK)
        start, end = self.starts[chunk][row : row + 2].tolist()
        logps: Tensor = self.files[chunk][start:end]
        return logps


def keep_numbers(file: Path, flat: Tensor) -> None:
    """Writes numbers [M] with their checksum."""

    def write(aside: Path) -> None:
        save_file({"logps": flat}, aside, metadata={CHECKSUM: _sum(flat)})
        aside.chmod(file.parent.stat().st_mode & 0o666)  # safetensors keeps it to its owner

    write_file(file, write)


def kept_numbers(file: Path, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor | None, str | None]:
    """What a file holds, or what is wrong with it, in words. One of an earlier version has no checksum."""
    try:
        with safe_open(file, "pt") as stored:
            checksum, flat = (stored.metadata() or {}).get(CHECKSUM), stored.get_tensor("logps")
    except Exception as error:  # the library raises whatever it likes
        return None, f"cannot be read ({first_line(error)})"
    if flat.shape != (size,) or flat.dtype != dtype or (checksum is not None and checksum != _sum(flat)):
        return None, "is not what was written"
    return flat, None


def _sum(flat: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(flat.contiguous().numpy().data)


@torch.no_grad()
def _compute(
    forward: Callable[..., PolicyOutput],
    groups: Sequence[CompletionGroup],
    token_budget: int,
    device: torch.device | str,
    progress: Progress,
) -> Tensor:
    logps: list[Tensor | None] = [None] * len(groups)
    for places in cut_places(groups, token_budget):
        members = [groups[i] for i in places]
        logps_M = forward(pack(members).to(device)).logps.cpu()
        pieces = torch.split(logps_M, [group.completion_tokens for group in members])
        for i, piece in zip(places, pieces, strict=True):
            logps[i] = piece
        progress.advance(len(members), tokens=sum(group.packed_length for group in members))
    return torch.cat([piece for piece in logps if piece is not None])
