"""Completion groups of a large split, kept as an Arrow file of token ids: a group is made when it is asked for.

TOKENS/groups.arrow   of each group its tokens (prompt, completions, suffixes, one behind the other), the length
                      of each part, and what else a CompletionGroup holds
       about.json     what became of the rows, the highest token, and the longest row
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from trimtab.data.arrow_files import ArrowFile, kept_folder, write_batches
from trimtab.data.groups import CompletionGroup
from trimtab.files import read_json, write_json
from trimtab.json_types import JsonObject

REMEDY = "Remove the folder that it is in; it is made anew."
Item = TypeVar("Item")


class Lazy(Sequence[Item]):
    """Items of which each is made when it is asked for; a slice is a list."""

    @abstractmethod
    def make(self, place: int) -> Item:
        """The item at a place that there is."""

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        places = range(len(self))[place]  # IndexError where there is none
        return [self.make(i) for i in places] if isinstance(places, range) else self.make(places)


class StoredGroups(Lazy[CompletionGroup]):
    """The groups of a file. highest_token, longest: of all of them, the latter a prompt with its completion."""

    def __init__(self, file: ArrowFile, highest_token: int, longest: int) -> None:
        self.file, self.highest_token, self.longest = file, highest_token, longest

    def __len__(self) -> int:
        return len(self.file)

    def make(self, place: int) -> CompletionGroup:
        """The group in the file's row of this number."""
        batch, row = self.file.find(place)
        return _group(self.file.batches[batch], row)


class ChangedGroups(Lazy[CompletionGroup]):
    """Groups, each changed when it is asked for. change: given its place and the group."""

    def __init__(
        self, groups: Sequence[CompletionGroup], change: Callable[[int, CompletionGroup], CompletionGroup]
    ) -> None:
        self.groups, self.change = groups, change

    def __len__(self) -> int:
        return len(self.groups)

    def make(self, place: int) -> CompletionGroup:
        """The group at this place, changed."""
        return self.change(place, self.groups[place])


class JoinedGroups(Lazy[CompletionGroup]):
    """The groups of several splits, one behind the other."""

    def __init__(self, splits: Sequence[Sequence[CompletionGroup]]) -> None:
        self.splits = splits
        self.starts = [*accumulate(map(len, splits), initial=0)]

    def __len__(self) -> int:
        return self.starts[-1]

    def make(self, place: int) -> CompletionGroup:
        """The group that is at this place of all."""
        split = bisect_right(self.starts, place) - 1
        return self.splits[split][place - self.starts[split]]


def kept_groups(
    folder: Path, make: Callable[[], Iterator[Any]], about: Callable[[], JsonObject]
) -> tuple[StoredGroups, JsonObject]:
    """The groups of the Arrow batches (`batch_of`) that `make` gives, and what `about` says when it has given all;
    those of an earlier run, where the folder has them."""

    def write(aside: Path) -> None:
        highest, longest = 0, 0

        def watched() -> Iterator[Any]:
            nonlocal highest, longest
            for batch in make():
                if len(batch):
                    highest = max(highest, int(batch.column("tokens").values.to_numpy().max()))
                    longest = max(longest, int(batch.column("longest").to_numpy().max()))
                yield batch

        write_batches(aside / "groups.arrow", _schema(), watched())
        write_json(aside / "about.json", {**about(), "highest_token": highest, "longest": longest})

    kept_folder(folder, write)
    said = read_json(folder / "about.json", REMEDY)
    return StoredGroups(ArrowFile(folder / "groups.arrow"), said["highest_token"], said["longest"]), said


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "tokens": pa.list_(pa.int32()),
            "lengths": pa.list_(pa.int32()),
            "completions": pa.int32(),
            "longest": pa.int32(),
            "index": pa.int64(),
            "truncated": pa.list_(pa.bool_()),
            "scores": pa.list_(pa.float64()),
            "labels": pa.list_(pa.bool_()),
        }
    )


def batch_of(groups: Sequence[CompletionGroup]) -> Any:
    """Groups as they come from the data, without columns, as an Arrow batch."""
    import pyarrow as pa

    parts = [(group.prompt, *group.completions, *group.prompt_suffixes) for group in groups]
    lengths = [[*map(len, of_group)] for of_group in parts]
    tokens = np.fromiter(chain.from_iterable(chain.from_iterable(parts)), dtype=np.int32)
    starts = np.fromiter(accumulate(map(sum, lengths), initial=0), dtype=np.int32)
    others = {
        "lengths": lengths,
        "completions": [len(group.completions) for group in groups],
        "longest": [group.longest for group in groups],
        "index": [group.index for group in groups],
        "truncated": [group.truncated for group in groups],
        "scores": [group.scores for group in groups],
        "labels": [group.labels for group in groups],
    }
    schema = _schema()
    arrays = [pa.array(values, schema.field(name).type) for name, values in others.items()]
    return pa.record_batch([pa.ListArray.from_arrays(starts, tokens), *arrays], schema=schema)


def _group(batch: Any, row: int) -> CompletionGroup:
    column = batch.column
    starts = column("tokens").offsets[row : row + 2].to_numpy()
    tokens = tuple(column("tokens").values[starts[0] : starts[1]].to_numpy().tolist())
    ends = accumulate(column("lengths")[row].as_py(), initial=0)
    prompt, *parts = (tokens[start:end] for start, end in pairwise(ends))
    count = column("completions")[row].as_py()
    truncated, scores, labels = (column(name)[row].as_py() for name in ("truncated", "scores", "labels"))
    return CompletionGroup(
        prompt,
        tuple(parts[:count]),
        column("index")[row].as_py(),
        tuple(truncated),
        None if scores is None else tuple(scores),
        None if labels is None else tuple(labels),
        tuple(parts[count:]),
    )


# ---- of all groups, stored or not


def changed(
    groups: Sequence[CompletionGroup], change: Callable[[int, CompletionGroup], CompletionGroup]
) -> Sequence[CompletionGroup]:
    """Groups, each as `change` makes it of its place and itself: at once, or those of a file when they are asked
    for."""
    if isinstance(groups, Lazy):
        return ChangedGroups(groups, change)
    return [change(place, group) for place, group in enumerate(groups)]


def joined(splits: Sequence[Sequence[CompletionGroup]]) -> Sequence[CompletionGroup]:
    """The groups of several splits, one behind the other; a list where all of them are in memory."""
    if any(isinstance(groups, Lazy) for groups in splits):
        return JoinedGroups(splits)
    return [group for groups in splits for group in groups]


def highest_token(groups: Sequence[CompletionGroup]) -> int:
    """The highest id of any token; 0 where there is none."""
    if isinstance(groups, StoredGroups):
        return groups.highest_token
    return max((max(row) for group in groups for row in (*group.prompts, *group.completions) if row), default=0)


def longest_row(groups: Iterable[CompletionGroup]) -> int:
    """Tokens of the longest prompt with its completion; 0 where there is none."""
    if isinstance(groups, StoredGroups):
        return groups.longest
    return max((group.longest for group in groups), default=0)
