"""Layers that keep less for the backward pass compute what transformers' own compute."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.activations import ACT2FN

from models.families import FAMILIES, TREE, make
from trimtab.data.groups import CompletionGroup, pack
from trimtab.models import loading
from trimtab.models.lean_layers import BLOCKS, NORMS, keep_less
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.reward_model import load_reward_model
from trimtab.models.settings import ModelSettings
from trimtab.plan.memory import Live

GROUPS = [
    CompletionGroup(tuple(range(3, 23)), (tuple(range(23, 40)), (40, 41, 42))),
    CompletionGroup((50, 51, 52), (tuple(range(25, 50)),)),
]


def gradients(policy: Policy, precision: torch.dtype | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    policy.zero_grad()
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        logps = policy(pack(GROUPS)).logps
    (logps * torch.linspace(-1, 1, logps.numel())).sum().backward()
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    return logps.detach(), found


def kept_bytes(policy: Policy) -> int:
    """What is alive after a forward pass, weights left out: what autograd keeps."""
    with Live(policy.parameters()) as live:
        before = live.now
        out = policy(pack(GROUPS)).logps
        kept = live.now - before
    del out
    return kept


@pytest.mark.parametrize("family", TREE)
def test_blocks_and_norms_of_every_family_give_the_same(family: str) -> None:
    plain, lean = Policy(make(family)), Policy(make(family))
    keep_less(lean.model)
    patched = [m for m in lean.model.modules() if "forward" in vars(m)]
    layers = FAMILIES[family].num_hidden_layers
    assert sum(type(m).__name__ in BLOCKS for m in patched) == layers
    assert any(type(m).__name__ in NORMS for m in patched) != family.startswith("gemma")
    expected, found = gradients(plain), gradients(lean)
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        noise = 1e-6 if name.endswith("k_proj.bias") else 1e-8
        assert (found[1][name] - grad).norm() <= 1e-5 * grad.norm() + noise, name


@pytest.mark.parametrize("act", ["silu", "gelu_pytorch_tanh", "linear"])
def test_a_gated_block_is_the_same_to_the_last_bit(act: str) -> None:
    block = next(m for m in make("llama").modules() if type(m).__name__ == "LlamaMLP")
    block.act_fn = ACT2FN[act]
    lean = copy.deepcopy(block)
    keep_less(lean)
    x = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(1))
    results = []
    for one in (block, lean):
        fed = x.clone().requires_grad_()
        one(fed).pow(2).sum().backward()
        results.append([fed.grad, *(p.grad for p in one.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        assert torch.equal(lean(x), block(x))


def test_a_norm_by_hand() -> None:
    """x = (3, 4), weight (1, 2): rms² = 12.5, y = (3, 8) / rms. Of y₁ + y₂ the gradient by x is
    (w − x·(w·x) / 25) / rms = ((1, 2) − (3, 4) · 11 / 25) / rms, by the weight x / rms."""
    norm = next(m for m in make("llama").modules() if type(m).__name__ == "LlamaRMSNorm")
    norm.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    norm.variance_epsilon = 0.0
    keep_less(norm)
    x = torch.tensor([[[3.0, 4.0]]], requires_grad=True)
    y = norm(x)
    y.sum().backward()
    rms = math.sqrt(12.5)
    assert torch.allclose(y.detach(), torch.tensor([[[3 / rms, 8 / rms]]]))
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert torch.allclose(x.grad, torch.tensor([[[-0.32 / rms, 0.24 / rms]]]), atol=1e-6)
    assert torch.allclose(norm.weight.grad, torch.tensor([3 / rms, 4 / rms]))


def test_less_is_kept() -> None:
    """By the counts of the file's first lines: two of four tensors of the inner width, and one of the hidden width
    for each of 5 norms (2 layers with 2, and the last)."""
    plain, lean = Policy(make("llama")), Policy(make("llama"))
    keep_less(lean.model)
    tokens = pack(GROUPS).input_ids.numel()
    saved = kept_bytes(plain) - kept_bytes(lean)
    # A norm kept its input, that divided by its rms, and its output; of these the second goes.
    assert saved == 4 * tokens * (2 * 2 * 40 + 5 * 24)


def test_adapters_and_bf16() -> None:
    policies = []
    for lean in (False, True):
        model = get_peft_model(make("qwen2"), LoraConfig(r=2, target_modules=["down_proj", "q_proj"]))
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(2))
        inner = model.get_base_model()
        policies.append(Policy(inner, adapter=model))
        if lean:
            keep_less(inner)
    for precision in (None, torch.bfloat16):
        expected, found = gradients(policies[0], precision), gradients(policies[1], precision)
        assert torch.equal(found[0], expected[0])
        assert found[1].keys() == expected[1].keys() != set()
        assert all(torch.allclose(found[1][n], g, rtol=1e-4, atol=1e-6) for n, g in expected[1].items())


@pytest.mark.parametrize(
    ("least", "checkpointing", "lean"), [(1, False, True), (2**40, False, False), (1, True, False)]
)
def test_who_gets_them(
    least: int, checkpointing: bool, lean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models from a size on, where no activations are checkpointed; reward models as policies."""
    make("llama").save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "TINY", least)
    settings = ModelSettings(gradient_checkpointing=checkpointing)
    for model in (load_policy(str(tmp_path), settings), load_reward_model(str(tmp_path), settings)):
        assert any("forward" in vars(m) for m in model.model.modules()) == lean
