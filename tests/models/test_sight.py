"""What a prediction can see, worked out from its place alone: a token of its own path, inside the layer's window.

In a model of one layer a token's embedding has a gradient in a prediction if and only if the prediction's place
sees it. Nothing of transformers' own masks is asked: these tests are of the tree and of its windows.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.families import FAMILIES, OTHERS, TREE, WINDOW
from trimtab.data.groups import CompletionGroup, pack
from trimtab.models.attention_flex import tree_mask
from trimtab.models.policy import Policy

GROUPS = [
    CompletionGroup(tuple(range(3, 12)), (tuple(range(12, 20)), (20, 21), tuple(range(22, 37)))),
    CompletionGroup((40, 41), ((42,), tuple(range(43, 53)))),
]
"""A prompt of 9 tokens, longer than the window, with completions shorter and longer than it; one of 2."""


def one_layer(family: str) -> Policy:
    config = copy.deepcopy((FAMILIES | OTHERS)[family])
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        kind = "sliding_attention" if "sliding_attention" in config.layer_types else "full_attention"
        config.layer_types = [kind]
    torch.manual_seed(0)
    return Policy(AutoModelForCausalLM.from_config(config, attn_implementation="eager")).eval()


def seen_from(policy: Policy, members: list[CompletionGroup]) -> list[set[int]]:
    """For each completion token, the packed places whose embedding moves its log-probability."""
    held: list[torch.Tensor] = []

    def hold(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        held.append(output.detach().requires_grad_())
        return held[0]

    handle = policy.model.get_input_embeddings().register_forward_hook(hold)
    grads, tokens = [], pack(members).target.numel()
    for place in range(tokens):  # a forward pass for each: a backward pass uses its probabilities up
        held.clear()
        [grad] = torch.autograd.grad(policy(pack(members)).logps[place], held[0])
        grads.append(grad[0])
    handle.remove()
    return [set(grad_ND.abs().sum(-1).nonzero()[:, 0].tolist()) for grad_ND in grads]


def expected(members: list[CompletionGroup], window: int | None) -> list[set[int]]:
    """By hand: the path is the prompt and what of the completion comes before; places count from its end."""
    out, start = [], 0
    for group in members:
        prompt = list(range(start, start + len(group.prompt)))
        start += len(prompt)
        for completion in group.completions:
            path = prompt + list(range(start, start + len(completion) - 1))
            start += len(completion) - 1
            for t in range(len(completion)):
                out.append(set(path[: len(prompt) + t][-window if window else 0 :]))
    return out


@pytest.mark.parametrize("family", [*TREE, "qwen2_windows"])
def test_a_token_sees_its_own_path_and_window(family: str) -> None:
    policy = one_layer(family)
    windowed = getattr(policy.model.config, "sliding_window", None) is not None
    wanted = expected(GROUPS, WINDOW if windowed else None)
    assert seen_from(policy, GROUPS) == wanted
    assert (max(map(len, wanted)) == WINDOW) is windowed


def test_a_window_begins_where_it_is_first_exceeded() -> None:
    """Paths of exactly the window and of one token more: their last predictions see WINDOW tokens each."""
    for fed in (WINDOW, WINDOW + 1):
        group = CompletionGroup(tuple(range(3, 5)), (tuple(range(5, 5 + fed - 1)),))
        assert group.packed_length == fed
        found = seen_from(one_layer("mistral"), [group])
        assert found == expected([group], WINDOW)
        assert found[-1] == set(range(fed - WINDOW, fed))


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_the_block_mask_sees_the_same(family: str) -> None:
    """The CUDA path's pattern, read off its mask for every pair of places."""
    policy, batch = one_layer(family), pack(GROUPS)
    window = getattr(policy.model.config, "sliding_window", None)
    mask = tree_mask(batch, window)
    places = torch.arange(batch.tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        visible = mask(0, 0, places[:, None], places[None, :])
    found = [set(visible[place].nonzero()[:, 0].tolist()) for place in batch.source.tolist()]
    assert found == expected(GROUPS, window)
