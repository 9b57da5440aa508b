"""The invariant that everything rests on: a packed batch gives what single sequences give."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings

from models.families import FAMILIES, OTHERS, TREE, batches, make, single_logps
from trimtab.data.groups import CompletionGroup, pack
from trimtab.models import attention, buckets
from trimtab.models.attention_flex import flex_tree_attention
from trimtab.models.families import serves_tree
from trimtab.models.policy import Policy
from trimtab.notices import collected

MODELS = {family: make(family) for family in [*FAMILIES, *OTHERS]}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    POLICIES = {family: Policy(copy.deepcopy(model)) for family, model in MODELS.items()}
LONG = [
    CompletionGroup(tuple(range(3, 23)), (tuple(range(23, 40)), (40, 41, 42), tuple(range(3, 33)))),
    CompletionGroup((50, 51, 52), (tuple(range(25, 50)),)),
    CompletionGroup(tuple(range(20, 60)), ((9,), (8, 7))),
]
"""Uneven, and several windows long: windows begin and end inside prompts and inside completions."""


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check(family: str, members: list[CompletionGroup]) -> None:
    """‖Δ‖ ≤ 5e-5 ‖g‖ + 1e-8 for every tensor, the loss a random weighting of the log-probabilities."""
    model, policy = MODELS[family], POLICIES[family]
    expected = single_logps(model, members)
    weights = torch.randn(expected.numel(), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    (expected * weights).sum().backward()
    policy.zero_grad()
    found = policy(pack(members)).logps
    (found * weights).sum().backward()
    assert torch.allclose(found, expected, atol=2e-5, rtol=1e-5)
    theirs, ours = gradients(model), gradients(policy.model)
    assert theirs.keys() == ours.keys()
    for name, g in theirs.items():
        # The key biases' true gradient is 0 (softmax ignores a constant): both are rounding noise there.
        noise = 1e-6 if name.endswith("k_proj.bias") else 1e-8
        assert (ours[name] - g).norm() <= 5e-5 * g.norm() + noise, name


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(members=batches)
def test_logps_and_gradients_equal_single_sequences(family: str, members: list[CompletionGroup]) -> None:
    check(family, members)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_texts_longer_than_the_window(family: str) -> None:
    check(family, LONG)


@pytest.mark.parametrize("family", TREE)
def test_a_prompt_that_is_computed_once_gives_the_same_numbers(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little is saved: uneven completions over a long prompt, near ones that share a padded bucket, and a
    group left whole."""
    monkeypatch.setattr(buckets, "SHARED_SCORES", 0)
    near = CompletionGroup((5, 6, 7), (tuple(range(20, 37)), tuple(range(9, 24)), tuple(range(40, 56))))
    members = [*LONG, near]
    plan = buckets.attention_plan(pack(members))
    assert len(plan.shared) == 2
    assert any(len(bucket.home) < bucket.branches * bucket.length for bucket in plan.own)
    check(family, members)


@settings(max_examples=25, deadline=None)
@given(members=batches)
def test_a_prompt_that_is_computed_once_gives_the_same_numbers_for_any_groups(
    members: list[CompletionGroup],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "SHARED_SCORES", 0)
        check("qwen2", members)


def test_which_groups_are_taken_apart() -> None:
    """By hand: three of four completions feed tokens, so two branches would repeat 200² / 2 = 20,000 scores each,
    40,000 > 32,768; of two completions 20,000 are too few."""
    many = CompletionGroup(tuple(range(3, 203)), ((5, 6), (7, 8), (9, 10), (11,)))
    few = CompletionGroup(tuple(range(3, 203)), ((5, 6), (7, 8), (11,)))
    found = buckets.attention_plan(pack([few, many]))
    assert found.shared == [((202, 402), (402, 405))], "behind the first group's 200 and 2 tokens"
    assert [(b.branches, b.length) for b in found.own] == [(3, 1)]
    assert [(b.branches, b.length) for b in found.whole] == [(3, 201)], (
        "two branches of `few`, the prompt of `many`"
    )
    homes = torch.cat([bucket.home for bucket in found.whole + found.own]).tolist()
    assert sorted(homes) == list(range(405)), "each position's output is taken once"


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_prompts_and_completions_of_one_token(family: str) -> None:
    members = [CompletionGroup((3,), ((4,), (5, 6), (7,))), CompletionGroup((8,), ((8, 8),))]
    expected = single_logps(MODELS[family], members)
    assert torch.allclose(POLICIES[family](pack(members)).logps, expected, atol=2e-5)


def test_who_runs_the_tree() -> None:
    assert [family for family, policy in POLICIES.items() if policy.uses_tree] == [*TREE, "qwen2_windows"]


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_given_beginning_is_the_rest_of_the_prompt(family: str) -> None:
    """Three completions of one prompt in a group that shares 0, 1, 2 or 3 of its 4 tokens: the same numbers."""
    prompt, completions = (5, 6, 7, 8), ((9, 10), (11,), (12, 13, 14))
    with torch.no_grad():
        expected = POLICIES[family](pack([CompletionGroup(prompt, completions)])).logps
        for n in range(4):
            cut = CompletionGroup(prompt[:n], completions, prompt_suffixes=(prompt[n:],) * 3)
            assert torch.allclose(POLICIES[family](pack([cut])).logps, expected, atol=1e-5), n


def test_padded_rows_warn_of_their_cost() -> None:
    """In trimtab's own way: the command line silences Python's warnings, which are libraries'."""
    with collected() as told:
        Policy(make("gpt2"))
    (line,) = told.lines
    assert "each prompt once per completion" in line


@pytest.mark.parametrize("family", TREE)
@settings(max_examples=4, deadline=None)
@given(members=batches)
def test_flex_attention_gives_the_same_numbers(family: str, members: list[CompletionGroup]) -> None:
    """The CUDA path's block mask, run uncompiled on the CPU."""
    policy, batch = POLICIES[family], pack(members)
    with torch.no_grad(), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        expected = policy(batch).logps
        patch.setattr(attention, "tree_attention", flex_tree_attention)
        assert torch.allclose(policy(pack(members)).logps, expected, atol=2e-5)


def test_a_completion_sees_its_prompt_and_itself_only() -> None:
    """Changing one completion, or another group, leaves the others' log-probabilities as they were."""
    policy = POLICIES["qwen2"]
    first = CompletionGroup((5, 6, 7), ((8, 9, 10), (11, 12, 13)))
    other = CompletionGroup((5, 6, 7), ((8, 9, 10), (40, 41, 42)))
    neighbour = CompletionGroup((20, 21), ((22, 23),))
    with torch.no_grad():
        alone = policy(pack([first])).logps[:3]
        changed = policy(pack([neighbour, other])).logps[2:5]
    assert torch.allclose(alone, changed, atol=1e-5)


def test_length_dependent_rope_is_not_run_as_a_tree() -> None:
    config = copy.deepcopy(FAMILIES["llama"])
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert not serves_tree(config)
    assert serves_tree(FAMILIES["llama"])
