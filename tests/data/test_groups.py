"""The packed tree batch, worked out by hand, and how a step's groups are cut into passes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.groups import CompletionGroup, Segment, cut_into_passes, pack, total_completion_tokens

PAIR = CompletionGroup((11, 12, 13), ((21, 22, 23), (31, 32)))
ONE = CompletionGroup((41,), ((51,),))


def test_pack_by_hand() -> None:
    """[11 12 13 | 21 22 | 31] [41]: the last token of each completion is predicted, never fed.

    Packed places:   0  1  2    3  4    5    6
    tokens          11 12 13   21 22   31   41
    positions        0  1  2    3  4    3    0     (the second completion follows the prompt too)

    21 and 31 are both predicted at the prompt's last place, 2; 51 at place 6.
    """
    batch = pack([PAIR, ONE])
    assert batch.input_ids.tolist() == [11, 12, 13, 21, 22, 31, 41]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0]
    assert batch.target.tolist() == [21, 22, 23, 31, 32, 51]
    assert batch.source.tolist() == [2, 3, 4, 2, 5, 6]
    assert batch.owner.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.lengths.tolist() == [3, 2, 1]
    assert batch.group_of.tolist() == [0, 0, 1]
    assert batch.segments == (Segment((0, 3), ((3, 5), (5, 6))), Segment((6, 7), ((7, 7),)))
    assert batch.groups == (PAIR, ONE)


def test_pack_with_prompts_that_differ_by_hand() -> None:
    """Prompts 11 12 | 61 62 and 11 12 and 11 12 | 63: the shared 11 12 once, the rests before their completions.

    Packed places:   0  1    2  3  4    5    6
    tokens          11 12   61 62 21   31   63
    positions        0  1    2  3  4    2    2     (the third's one token is never fed, its rest is)

    21 is predicted at 62, place 3; 31 at the shared prompt's end, 1; 41 at 63, place 6.
    """
    group = CompletionGroup((11, 12), ((21, 22), (31, 32), (41,)), prompt_suffixes=((61, 62), (), (63,)))
    batch = pack([group])
    assert batch.input_ids.tolist() == [11, 12, 61, 62, 21, 31, 63]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 2]
    assert batch.target.tolist() == [21, 22, 31, 32, 41]
    assert batch.source.tolist() == [3, 4, 1, 5, 6]
    assert batch.owner.tolist() == [0, 0, 1, 1, 2]
    assert batch.lengths.tolist() == [2, 2, 1]
    assert batch.segments == (Segment((0, 2), ((2, 5), (5, 6), (6, 7))),)
    assert (group.packed_length, group.completion_tokens, group.longest) == (7, 5, 6)
    assert group.prompts == ((11, 12, 61, 62), (11, 12), (11, 12, 63))


def test_prompts_without_a_common_beginning() -> None:
    """Nothing is shared, and each completion still follows a token; where one does not, it is an error."""
    batch = pack([PAIR, CompletionGroup((), ((21, 22), (31,)), prompt_suffixes=((61,), (62, 63)))])
    assert batch.input_ids.tolist() == [11, 12, 13, 21, 22, 31, 61, 21, 62, 63]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 0, 1]
    assert batch.source.tolist() == [2, 3, 4, 2, 5, 6, 7, 9]
    with pytest.raises(ValueError, match="at least one prompt token"):
        CompletionGroup((), ((21,), (31,)), prompt_suffixes=((61,), ()))
    with pytest.raises(ValueError, match="1 prompt suffixes for 2 completions"):
        CompletionGroup((11,), ((21,), (31,)), prompt_suffixes=((61,),))


def test_lengths_by_hand() -> None:
    """PAIR: 3 prompt tokens and 2 + 1 that are fed. ONE: its prompt only."""
    assert (PAIR.packed_length, ONE.packed_length) == (6, 1)
    assert pack([PAIR, ONE]).tokens == 7
    assert (PAIR.completion_tokens, ONE.completion_tokens) == (5, 1)
    assert total_completion_tokens([PAIR, ONE]) == 6


def test_sum_by_completion_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], requires_grad=True)
    sums = pack([PAIR, ONE]).sum_by_completion(values)
    assert sums.tolist() == [7.0, 24.0, 32.0]
    (sums * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 1, 10, 10, 100]


@pytest.mark.parametrize(("prompt", "completions"), [((), ((1,),)), ((1,), ()), ((1,), ((),)), ((1,), ((2,), ()))])
def test_nothing_may_be_empty(prompt: tuple[int, ...], completions: tuple[tuple[int, ...], ...]) -> None:
    """An empty completion would be a division by zero in losses that take a mean."""
    with pytest.raises(ValueError, match="at least one"):
        CompletionGroup(prompt, completions)


TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=6).map(tuple)
RESTS = st.lists(st.integers(0, 99), max_size=4).map(tuple)
GROUPS = st.lists(
    st.builds(
        lambda prompt, branches, differ: CompletionGroup(
            prompt,
            tuple(c for c, _ in branches),
            prompt_suffixes=tuple(rest for _, rest in branches) if differ else (),
        ),
        TOKENS,
        st.lists(st.tuples(TOKENS, RESTS), min_size=1, max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(GROUPS)
def test_every_completion_can_be_read_off_a_batch(groups: list[CompletionGroup]) -> None:
    """Fed tokens and positions along a completion are those of prompt + completion by itself."""
    batch = pack(groups)
    assert batch.tokens == sum(group.packed_length for group in groups)
    completions = [(group, *one) for group in groups for one in zip(group.prompts, group.completions, strict=True)]
    assert batch.lengths.numel() == len(completions)
    for number, (group, prompt, completion) in enumerate(completions):
        source = batch.source[batch.owner == number]
        assert tuple(batch.target[batch.owner == number].tolist()) == completion
        alone = [*prompt, *completion]
        first = len(prompt) - 1
        assert batch.input_ids[source].tolist() == alone[first:-1]
        assert batch.position_ids[source].tolist() == list(range(first, len(alone) - 1))
        assert batch.groups[int(batch.group_of[number])] == group
    for group, segment in zip(groups, batch.segments, strict=True):
        assert tuple(batch.input_ids[slice(*segment.prompt)].tolist()) == group.prompt
        fed = [tuple(batch.input_ids[slice(*place)].tolist()) for place in segment.completions]
        rests = group.prompt_suffixes or ((),) * len(group.completions)
        assert fed == [rest + c[:-1] for rest, c in zip(rests, group.completions, strict=True)]


def test_passes_by_hand() -> None:
    """Packed lengths 2, 5, 3, 4 and a budget of 7, first-fit decreasing: 5+2, then 4+3."""
    groups = [CompletionGroup((0,) * n, ((1,),)) for n in (2, 5, 3, 4)]
    passes = cut_into_passes(groups, 7)
    assert [[g.packed_length for g in one] for one in passes] == [[2, 5], [3, 4]]


@given(GROUPS, st.integers(1, 60))
def test_passes_hold_each_group_once_within_the_budget(groups: list[CompletionGroup], budget: int) -> None:
    passes = cut_into_passes(groups, budget)
    assert Counter(g for one in passes for g in one) == Counter(groups)
    for one in passes:
        assert len(one) == 1 or sum(g.packed_length for g in one) <= budget
    # First fit: no two passes could have been one.
    sizes = sorted(sum(g.packed_length for g in one) for one in passes)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > budget


@given(GROUPS, st.integers(1, 60), st.randoms(use_true_random=False))
def test_passes_depend_on_lengths_alone(groups: list[CompletionGroup], budget: int, random: object) -> None:
    """Not on tokens, row numbers or which objects they are: a resumed run cuts a step as the first one did."""
    numbers = list(range(len(groups)))
    random.shuffle(numbers)  # type: ignore[attr-defined]
    others = [
        replace(g, index=n, prompt=tuple(t + 1 for t in g.prompt)) for g, n in zip(groups, numbers, strict=True)
    ]
    lengths = [[g.packed_length for g in one] for one in cut_into_passes(groups, budget)]
    assert lengths == [[g.packed_length for g in one] for one in cut_into_passes(others, budget)]
    assert cut_into_passes(groups, budget) == cut_into_passes([replace(g) for g in groups], budget)
