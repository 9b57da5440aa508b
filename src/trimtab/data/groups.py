"""Completion groups and the packed tree batch made of them.

A group is one prompt with its k completions: k=1 for SFT, 2 for a preference pair, n for GRPO and PPO.
In a batch it is laid out as `[prompt | c1 | c2 | … | ck]`; positions restart after the prompt for
each completion, and each completion attends to its prompt and itself only. Groups lie side by
side, without padding. Where prompts differ inside a group (`prompt_suffixes`), the shared one is their common
beginning, and a branch is the rest of its prompt with its completion.

Dimension suffixes: _N packed tokens, _M completion tokens (those with a log-probability),
_C completions of the batch, _G groups of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor

NO_COLUMNS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CompletionGroup:
    """One prompt and its completions as token ids.

    Every completion token is supervised, the end-of-turn token included where the completion was
    not truncated; no prompt token is. index: the row's place in its split. scores, labels: one a completion,
    where the data has them. prompt_suffixes: for each completion the rest of a prompt of its own, which stands
    between the shared prompt and it: attended to, in position, never predicted nor counted; none where all share
    theirs. columns: what a method knows of the group beside its tokens, by name: a tensor with
    a value for each completion token, [M], or for each completion, [C], such as ref_logps and advantages.
    companion: a group that the method reads beside this one, such as KTO's mismatched completions; never packed
    with it. ValueError where there is nothing to predict a completion's first token from.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    index: int = -1
    truncated: tuple[bool, ...] = ()
    scores: tuple[float, ...] | None = None
    labels: tuple[bool, ...] | None = None
    prompt_suffixes: tuple[tuple[int, ...], ...] = ()
    columns: Mapping[str, Tensor] = field(default_factory=lambda: NO_COLUMNS, compare=False)
    companion: CompletionGroup | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.prompt_suffixes and len(self.prompt_suffixes) != len(self.completions):
            raise ValueError(f"{len(self.prompt_suffixes)} prompt suffixes for {len(self.completions)} completions")
        if not self.prompt and not (self.prompt_suffixes and all(self.prompt_suffixes)):
            raise ValueError("a group needs at least one prompt token: the first completion token follows it")
        if not self.completions or any(not c for c in self.completions):
            raise ValueError("a group needs at least one completion, and none of them empty")

    def with_columns(self, **columns: Tensor) -> CompletionGroup:
        """The same group with these columns beside those that it has."""
        return replace(self, columns={**self.columns, **columns})

    @property
    def packed_length(self) -> int:
        """Tokens that the group takes in a packed batch: the last of each completion is only predicted."""
        return len(self.prompt) + sum(len(c) - 1 for c in self.completions) + sum(map(len, self.prompt_suffixes))

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions: those that are predicted."""
        return sum(len(c) for c in self.completions)

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """The whole prompt of each completion."""
        return tuple(self.prompt + rest for rest in self.prompt_suffixes) or (self.prompt,) * len(self.completions)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return max(len(p) + len(c) for p, c in zip(self.prompts, self.completions, strict=True))


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one group lies among the packed tokens: half-open ranges."""

    prompt: tuple[int, int]
    completions: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PackedBatch:
    """Groups side by side. The last token of a completion is predicted, never fed.

    input_ids, position_ids: [N]. source: [M], the packed position whose hidden state predicts each
    completion token. target: [M], the tokens predicted. owner: [M], the completion of each. lengths:
    [C], tokens of each completion. group_of: [C], the group of each completion. columns: the groups' own, one
    behind the other, [M] or [C].
    """

    groups: tuple[CompletionGroup, ...]
    segments: tuple[Segment, ...]
    input_ids: Tensor
    position_ids: Tensor
    source: Tensor
    target: Tensor
    owner: Tensor
    lengths: Tensor
    group_of: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    # Built on demand by the CUDA path, once a batch: see models/attention_flex.py.
    cache: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """Packed tokens of the batch."""
        return int(self.input_ids.numel())

    def sum_by_completion(self, values_M: Tensor) -> Tensor:
        """Adds a value per token up to one per completion: [M] -> [C]."""
        out_C = values_M.new_zeros(self.lengths.numel())
        return out_C.index_add(0, self.owner, values_M)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch with its tensors on a device, its cache empty; itself where they are there already."""
        tensors = ("input_ids", "position_ids", "source", "target", "owner", "lengths", "group_of")
        if str(self.input_ids.device) == str(device):
            return self
        moved = {name: getattr(self, name).to(device) for name in tensors}
        columns = {name: column.to(device) for name, column in self.columns.items()}
        return PackedBatch(groups=self.groups, segments=self.segments, columns=columns, **moved)


def pack(groups: Sequence[CompletionGroup]) -> PackedBatch:
    """Lays groups side by side in one packed tree batch. All of them must have the same columns."""
    input_ids: list[int] = []
    position_ids: list[int] = []
    source: list[int] = []
    target: list[int] = []
    owner: list[int] = []
    lengths: list[int] = []
    group_of: list[int] = []
    segments: list[Segment] = []
    for g, group in enumerate(groups):
        start = len(input_ids)
        end = start + len(group.prompt)
        input_ids += group.prompt
        position_ids += range(len(group.prompt))
        ranges: list[tuple[int, int]] = []
        for completion, rest in zip(
            group.completions, group.prompt_suffixes or ((),) * len(group.completions), strict=True
        ):
            first = len(input_ids)
            input_ids += rest + completion[:-1]
            position_ids += range(len(group.prompt), len(group.prompt) + len(rest) + len(completion) - 1)
            # What stands right before a completion predicts its first token: the shared prompt's end, for all.
            behind = first + len(rest)
            source.append(behind - 1 if rest else end - 1)
            source += range(behind, behind + len(completion) - 1)
            target += completion
            owner += [len(lengths)] * len(completion)
            ranges.append((first, len(input_ids)))
            lengths.append(len(completion))
            group_of.append(g)
        segments.append(Segment((start, end), tuple(ranges)))
    as_tensor = torch.tensor
    return PackedBatch(
        groups=tuple(groups),
        segments=tuple(segments),
        input_ids=as_tensor(input_ids),
        position_ids=as_tensor(position_ids),
        source=as_tensor(source),
        target=as_tensor(target),
        owner=as_tensor(owner),
        lengths=as_tensor(lengths),
        group_of=as_tensor(group_of),
        columns=_columns(groups),
    )


def _columns(groups: Sequence[CompletionGroup]) -> dict[str, Tensor]:
    """The groups' columns, concatenated. ValueError where a group lacks one that another has."""
    names = list(groups[0].columns) if groups else []
    for group in groups:
        if set(group.columns) != set(names):
            raise ValueError(f"groups with different columns: {sorted(names)} and {sorted(group.columns)}")
    return {name: torch.cat([group.columns[name] for group in groups]) for name in names}


def cut_into_passes(groups: Sequence[CompletionGroup], token_budget: int) -> list[list[CompletionGroup]]:
    """Cuts one optimizer step's groups into passes of at most `token_budget` packed tokens.

    First-fit decreasing. Groups are never split: one over the budget has a pass of its own. How a
    step is cut changes its memory and speed, never its gradient.
    """
    return [[groups[i] for i in members] for members in cut_places(groups, token_budget)]


def cut_places(groups: Sequence[CompletionGroup], token_budget: int) -> list[list[int]]:
    """Cuts a step into passes as `cut_into_passes` does, each a list of indices into `groups`."""
    order = sorted(range(len(groups)), key=lambda i: (-groups[i].packed_length, i))
    passes: list[list[int]] = []
    used: list[int] = []
    for i in order:
        need = groups[i].packed_length
        for p in range(len(passes)):
            if used[p] + need <= token_budget:
                passes[p].append(i)
                used[p] += need
                break
        else:
            passes.append([i])
            used.append(need)
    return [sorted(members) for members in passes]


def common_prefix_length(rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows have in common at their beginning."""
    same = (len(set(tokens)) == 1 for tokens in zip(*rows, strict=False))
    return next((i for i, equal in enumerate(same) if not equal), min(map(len, rows)))


def total_completion_tokens(groups: Iterable[CompletionGroup]) -> int:
    """Completion tokens of all groups together."""
    return sum(group.completion_tokens for group in groups)
