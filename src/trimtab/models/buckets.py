"""Buckets of branches: what the CPU's attention runs over (attention_fused.py, attention_plain.py).

A branch is a prompt with one of its completions. Where that would compute much of a prompt's attention again for
each completion, the group is taken apart: its prompt is a branch alone, each completion's own tokens are another,
and all completions look at the prompt's keys together, in one call (`AttentionPlan.shared`).

A sliding window is measured in positions, never in packed distance: token i sees token j of its
own path iff 0 <= position_i - position_j < window.

Dimension suffixes: _H heads, _N packed tokens, _D head size, _S branches of a bucket, _L their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data.groups import PackedBatch, Segment

Range = tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """Branches of like length, side by side as rows of plain causal attention.

    A prompt's outputs are taken from its first branch; in the others its queries are computed for nothing,
    which costs less than a kernel call for each piece, where the prompt is short.

    rows: [S · L] packed positions of S branches of at most L tokens, padded on the right (a causal query
    never sees what follows it). kept: [K] places of `rows` whose output is used. home: [K] their packed
    positions, each packed position in one bucket once.
    """

    rows: Tensor
    kept: Tensor
    home: Tensor
    branches: int
    length: int


@dataclass(frozen=True)
class AttentionPlan:
    """How a batch's attention is computed. whole: prompts with a completion, and lone prompts. own: the
    completions' own tokens, in groups that were taken apart. shared: the packed ranges of such a group's prompt and
    of all its completions."""

    whole: list[Bucket]
    own: list[Bucket]
    shared: list[tuple[Range, Range]]


BUCKET_WASTE = 0.8
"""A branch joins a bucket while it is at least this share of the bucket's longest."""
SHARED_SCORES = 2**15
"""A group is taken apart where that saves so many scores of prompt tokens with each other, of each head: below, the
calls cost more than the scores."""

Branch = tuple[int, list[Range], int]
"""Its length, its packed ranges, and the tokens of its prompt whose output another branch gives."""


def buckets(batch: PackedBatch) -> list[Bucket]:
    """The batch's branches, sorted by length into buckets; built once a batch."""
    if "buckets" not in batch.cache:
        batch.cache["buckets"] = list(_fill_buckets(_branches(batch.segments), batch.input_ids.device))
    return batch.cache["buckets"]  # type: ignore[return-value]


def attention_plan(batch: PackedBatch) -> AttentionPlan:
    """The batch with its large shared prompts computed once; built once a batch."""
    if "attention_plan" not in batch.cache:
        apart = [segment for segment in batch.segments if _saved_scores(segment) > SHARED_SCORES]
        joined = [segment for segment in batch.segments if _saved_scores(segment) <= SHARED_SCORES]
        prompts: list[Branch] = [(_size(segment.prompt), [segment.prompt], 0) for segment in apart]
        own: list[Branch] = [(_size(part), [part], 0) for segment in apart for part in segment.completions]
        device = batch.input_ids.device
        batch.cache["attention_plan"] = AttentionPlan(
            list(_fill_buckets(_branches(joined) + prompts, device)),
            list(_fill_buckets([branch for branch in own if branch[0]], device)),
            [(segment.prompt, (segment.prompt[1], segment.completions[-1][1])) for segment in apart],
        )
    return batch.cache["attention_plan"]  # type: ignore[return-value]


def _size(part: Range) -> int:
    return part[1] - part[0]


def _saved_scores(segment: Segment) -> int:
    """The scores of prompt tokens with each other that every branch but one would compute for nothing."""
    fed = sum(1 for part in segment.completions if _size(part))
    return max(0, fed - 1) * _size(segment.prompt) ** 2 // 2


def _branches(segments: Sequence[Segment]) -> list[Branch]:
    branches: list[Branch] = []
    for segment in segments:
        prompt = segment.prompt
        for i, completion in enumerate(segment.completions):
            if i and completion[0] == completion[1]:
                continue  # one token: predicted from the prompt, never fed
            branches.append((_size(prompt) + _size(completion), [prompt, completion], _size(prompt) if i else 0))
    return branches


def _fill_buckets(branches: Sequence[Branch], device: torch.device) -> Iterator[Bucket]:
    branches = sorted(branches, key=lambda branch: -branch[0])
    while branches:
        longest = branches[0][0]
        size = next((n for n, b in enumerate(branches) if b[0] < BUCKET_WASTE * longest), len(branches))
        yield _make_bucket(branches[:size], longest, device)
        branches = branches[size:]


def _make_bucket(branches: Sequence[Branch], longest: int, device: torch.device) -> Bucket:
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
