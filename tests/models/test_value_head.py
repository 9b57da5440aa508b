"""The value head: what it reads, the same through the tree and through padded rows, and where its weights go."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from models.families import make
from trimtab.data.groups import CompletionGroup, pack
from trimtab.models.lora import add_lora, frozen_copy
from trimtab.models.policy import Policy
from trimtab.models.settings import LoraSettings
from trimtab.training.checkpoint import trained_state

MEMBERS = [
    CompletionGroup((3, 9, 5), ((8, 4, 11, 20), (7,), (6, 30))),
    CompletionGroup((12, 13), ((14, 15, 16),)),
    CompletionGroup((40, 41, 42, 43, 44), ((45, 46),)),
]


def policy_of(family: str, tree: bool = True) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = Policy(copy.deepcopy(make(family)))
    if not tree:
        policy.uses_tree = False
        policy.model.set_attn_implementation("eager")
    policy.add_value_head()
    return policy.eval()


def drawn(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(3)
    assert policy.value_head is not None
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=generator)
        policy.value_head.bias.fill_(0.25)
    return policy


def by_hand(model: Any, head: torch.nn.Linear) -> torch.Tensor:
    """One sequence at a time: the head on the last hidden state of the token before each completion token."""
    values = []
    for group in MEMBERS:
        for completion in group.completions:
            ids = torch.tensor([group.prompt + completion])
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            states = hidden[len(group.prompt) - 1 : len(group.prompt) - 1 + len(completion)]
            values.append(states @ head.weight[0] + head.bias[0])
    return torch.cat(values)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
def test_values_and_gradients_equal_single_sequences(family: str) -> None:
    """qwen2 and gemma2 (a soft cap on its logits) by the tree, gpt2 by padded rows."""
    model, policy = make(family), drawn(policy_of(family))
    head = copy.deepcopy(policy.value_head)
    assert head is not None
    weights = torch.randn(12, generator=torch.Generator().manual_seed(0))
    wanted = by_hand(model, head)
    (wanted * weights).sum().backward()
    found = policy(pack(MEMBERS))
    (found.values * weights).sum().backward()
    assert found.values.dtype == torch.float32
    assert torch.allclose(found.values, wanted, atol=2e-5)
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, parameter in policy.model.named_parameters():
        if name in theirs and not name.endswith("k_proj.bias"):  # whose true gradient is 0
            assert (parameter.grad - theirs[name]).norm() <= 1e-5 * theirs[name].norm() + 1e-7, name
    assert policy.value_head is not None
    assert torch.allclose(policy.value_head.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_the_tree_and_padded_rows_agree_and_rows_leave_nothing_behind() -> None:
    tree, rows = drawn(policy_of("qwen2")), drawn(policy_of("qwen2", tree=False))
    found = [policy(pack(MEMBERS)) for policy in (tree, rows)]
    assert torch.allclose(found[0].values, found[1].values, atol=2e-5)
    assert torch.allclose(found[0].logps, found[1].logps, atol=2e-5)
    assert not rows.model.get_output_embeddings()._forward_pre_hooks


def test_it_starts_at_0_and_changes_no_log_probability() -> None:
    policy = policy_of("qwen2")
    with torch.no_grad():
        found = policy(pack(MEMBERS))
        policy.value_head = None
        plain = policy(pack(MEMBERS))
    assert found.values.abs().max() == 0
    assert torch.equal(found.logps, plain.logps)
    assert plain.values is None


def test_values_are_float32_under_autocast() -> None:
    """Only the hidden states have bf16's rounding; a head in bf16 would round its result to 8 bits too."""
    policy = drawn(policy_of("qwen2"))
    assert policy.value_head is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, _, states = policy._hidden(pack(MEMBERS))
        found = policy(pack(MEMBERS)).values
    assert states is not None
    wanted = states.float() @ policy.value_head.weight[0] + policy.value_head.bias[0]
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_it_is_in_checkpoints_and_not_in_what_is_saved(lora: LoraSettings | None, tmp_path: Path) -> None:
    model = make("qwen2")
    adapter = add_lora(model, lora, 0, "base") if lora else None
    policy = Policy(model, "", adapter)
    policy.add_value_head()
    kept = trained_state(policy)
    assert {"value_head.weight", "value_head.bias"} <= set(kept)
    assert len(kept) > 2, "beside what else is trained"
    assert not any("value_head" in name for name in policy.starting_state())
    policy.save(tmp_path)
    assert not any("value" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    reference = frozen_copy(policy)
    assert not any(p.requires_grad for p in reference.parameters())
    assert loaded.config.model_type == "qwen2"
