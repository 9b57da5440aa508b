"""Buckets of branches: what the CPU's attention runs over (attention_fused.py, attention_plain.py).

A sliding window is measured in positions, never in packed distance: token i sees token j of its
own path iff 0 <= position_i - position_j < window.

Dimension suffixes: _H heads, _N packed tokens, _D head size, _S branches of a bucket, _L their length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch

Range = tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """Branches of like length, side by side as rows of plain causal attention.

    A branch is a prompt with one of its completions: one causal sequence at positions 0, 1, …. The
    prompt's outputs are taken from its first branch; in the others its queries are computed for nothing,
    which costs less than a kernel call for each piece.

    rows: [S · L] packed positions of S branches of at most L tokens, padded on the right (a causal query
    never sees what follows it). kept: [K] places of `rows` whose output is used. home: [K] their packed
    positions, each packed position in one bucket once.
    """

    rows: Tensor
    kept: Tensor
    home: Tensor
    branches: int
    length: int


BUCKET_WASTE = 0.8
"""A branch joins a bucket while it is at least this share of the bucket's longest."""


def buckets(batch: PackedBatch) -> list[Bucket]:
    """The batch's branches, sorted by length into buckets; built once a batch."""
    if "buckets" not in batch.cache:
        batch.cache["buckets"] = list(_fill_buckets(batch))
    return batch.cache["buckets"]  # type: ignore[return-value]


def _fill_buckets(batch: PackedBatch) -> Iterator[Bucket]:
    # (length, packed ranges, tokens of the prompt whose output another branch gives)
    branches: list[tuple[int, list[Range], int]] = []
    for segment in batch.segments:
        prompt = segment.prompt
        for i, completion in enumerate(segment.completions):
            if i and completion[0] == completion[1]:
                continue  # one token: predicted from the prompt, never fed
            length = prompt[1] - prompt[0] + completion[1] - completion[0]
            branches.append((length, [prompt, completion], prompt[1] - prompt[0] if i else 0))
    branches.sort(key=lambda branch: -branch[0])
    while branches:
        longest = branches[0][0]
        size = next((n for n, b in enumerate(branches) if b[0] < BUCKET_WASTE * longest), len(branches))
        yield _make_bucket(branches[:size], longest, batch.input_ids.device)
        branches = branches[size:]


def _make_bucket(branches: list[tuple[int, list[Range], int]], longest: int, device: torch.device) -> Bucket:
    rows = torch.zeros(len(branches), longest, dtype=torch.long)
    used = torch.zeros(len(branches), longest, dtype=torch.bool)
    for i, (length, ranges, skipped) in enumerate(branches):
        rows[i, :length] = torch.cat([torch.arange(lo, hi) for lo, hi in ranges])
        used[i, skipped:length] = True
    flat = rows.flatten()
    kept = used.flatten().nonzero()[:, 0]
    return Bucket(flat.to(device), kept.to(device), flat[kept].to(device), len(branches), longest)


def window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Boolean [L, L], query by key; None where plain causality does, because no token is out of sight."""
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def bucket_rows(x_HND: Tensor, bucket: Bucket, times: int = 1) -> Tensor:
    """[1, H, N, D] -> [S, H * times, L, D]"""
    heads, size = x_HND.shape[1], x_HND.shape[3]
    x = x_HND[0].index_select(1, bucket.rows).view(heads, bucket.branches, bucket.length, size)
    return (x if times == 1 else x.repeat_interleave(times, dim=0)).transpose(0, 1)


def packed_rows(x_SHLD: Tensor) -> Tensor:
    """[S, H, L, D] -> [H, S · L, D]"""
    return x_SHLD.transpose(0, 1).flatten(1, 2)
