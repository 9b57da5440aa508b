"""Four-bit frozen weights: what they read back as, and that everything is exact with respect to that."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import norm
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from models.families import SHAPE, make, single_logps
from models.test_lora import disturb, save
from models.test_packed_equals_single import LONG, gradients
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.hashing import hash_source, hash_weights
from trimtab.errors import TrimtabError
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.models.loading import load_policy
from trimtab.models.lora import frozen_copy, hash_model
from trimtab.models.policy import Policy
from trimtab.models.quantized import unpacked
from trimtab.models.settings import LoraSettings, ModelSettings

FLOAT = ModelSettings(precision="float32", lora=LoraSettings(rank=4))
PACKED = ModelSettings(precision="float32", lora=LoraSettings(rank=4, quantize="nf4"))
PLAIN = ModelSettings(precision="float32")
GROUP = CompletionGroup((3, 4, 5), ((6, 7, 8), (9, 10)))


@pytest.fixture
def bnb() -> Any:
    return pytest.importorskip("bitsandbytes", reason="four bits need bitsandbytes: pip install bitsandbytes")


def quiet(source: str, settings: ModelSettings = PLAIN, seed: int | None = 3) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_policy(source, settings, seed=seed).eval()


def nf4_levels() -> np.ndarray[Any, Any]:
    """The paper's appendix E from its definition: quantiles of N(0, 1), 0 among them, scaled to ±1."""
    most = 0.9677083
    above = norm.ppf(np.linspace(most, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(most, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([above, below, [0.0]]))
    return levels / levels.max()


def test_a_weight_reads_back_as_the_nearest_of_16_quantiles_of_its_block(bnb: Any, tmp_path: Path) -> None:
    """Blocks of 64, times the largest of the block; that scale is kept in eight bits, and is off by a little."""
    source = save("qwen2", tmp_path)
    layer = quiet(source, PACKED).model.model.layers[0].mlp.up_proj.base_layer
    weight = make("qwen2").model.layers[0].mlp.up_proj.weight.detach().numpy()
    blocks = weight.reshape(-1, 64)
    scale = np.abs(blocks).max(1, keepdims=True)
    levels = nf4_levels()
    nearest = levels[np.abs((blocks / scale)[:, :, None] - levels).argmin(-1)] * scale
    found = unpacked(layer).numpy().reshape(-1, 64)
    assert found.shape == blocks.shape
    assert np.abs(found - nearest).max() < 0.03 * scale.max()
    assert np.abs(found - blocks).max() > 0.05 * scale.max(), "it is not the weight itself"


def test_what_is_held_in_four_bits(bnb: Any, tmp_path: Path) -> None:
    policy = quiet(save("qwen2", tmp_path), PACKED)
    held = {name: p for name, p in policy.named_parameters() if p.dtype == torch.uint8}
    assert len(held) == 2 * 7, "q, k, v, o, gate, up, down of two layers"
    assert all(name.endswith("base_layer.weight") for name in held)
    rest = {name: p for name, p in policy.named_parameters() if name not in held}
    assert all(p.dtype == torch.float32 for p in rest.values())
    assert any("lm_head" in name for name in rest)
    assert all(p.requires_grad is ("lora_" in name) for name, p in policy.named_parameters())
    again, plain = quiet(str(tmp_path), PACKED), quiet(str(tmp_path))
    assert hash_weights(policy.starting_state()) == hash_weights(again.starting_state())
    assert hash_weights(policy.starting_state()) != hash_weights(plain.starting_state()), "another reference"


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gpt2", "dora"])
def test_logps_and_gradients_are_those_of_what_is_exported(kind: str, bnb: Any, tmp_path: Path) -> None:
    """With a new adapter the export is the base as it reads back: an adapter on that, in float32, is the same.
    A trained one's export is it too, by transformers alone, one sequence at a time."""
    source = save("llama" if kind == "dora" else kind, tmp_path / "base")
    options: Any = {"rank": 4, "dora": kind == "dora"}
    policy = quiet(source, ModelSettings(precision="float32", lora=LoraSettings(**options, quantize="nf4")))
    policy.save(tmp_path / "start")
    twin = quiet(str(tmp_path / "start"), ModelSettings(precision="float32", lora=LoraSettings(**options)))
    for one in (policy, twin):
        disturb(one)
        weights = torch.linspace(-1, 1, sum(g.completion_tokens for g in LONG))
        (one(pack(LONG)).logps * weights).sum().backward()
    ours, theirs = gradients(policy), gradients(twin)
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        assert (ours[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-7, name
    policy.save(tmp_path / "best")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "best", attn_implementation="eager")
    assert "quantization_config" not in json.loads((tmp_path / "best" / "config.json").read_text())
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    with torch.no_grad():
        found = policy(pack(LONG)).logps
        torch.testing.assert_close(found, single_logps(plain, LONG), rtol=1e-4, atol=5e-5)
        start = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
        assert (found - single_logps(start, LONG)).abs().max() > 1e-2


def test_saving_changes_nothing_of_what_is_trained(bnb: Any, tmp_path: Path) -> None:
    policy = disturb(quiet(save("qwen2", tmp_path / "base"), PACKED))
    before = hash_weights(policy.state_dict())
    with torch.no_grad():
        logps = policy(pack([GROUP])).logps
        policy.save(tmp_path / "best")
        assert torch.equal(policy(pack([GROUP])).logps, logps)
    assert hash_weights(policy.state_dict()) == before


def test_an_adapter_goes_on_over_the_four_bits_that_it_was_trained_on(bnb: Any, tmp_path: Path) -> None:
    policy = disturb(quiet(save("qwen2", tmp_path / "base"), PACKED))
    policy.save(tmp_path / "best")
    source = str(tmp_path / "best" / "adapter")
    further, read = quiet(source, seed=0), quiet(source, seed=None)
    with torch.no_grad():
        expected = policy(pack([GROUP])).logps
        assert torch.equal(further(pack([GROUP])).logps, expected)
        torch.testing.assert_close(read(pack([GROUP])).logps, expected, rtol=1e-4, atol=5e-5)
    assert read.adapter is None
    known = hash_model(source)
    (Path(source) / "quantization.json").unlink()
    assert hash_model(source) != known, "another function"
    assert hash_source(source) != known
    with torch.no_grad():
        assert (quiet(source, seed=0)(pack([GROUP])).logps - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"quantize": "int3", "products": "float32"}', "names .*int3"),
        ('{"quantize": "nf4"}', "cannot be read: .*products"),
        ("{", "cannot be read"),
    ],
)
def test_a_note_that_is_not_one_is_an_error(content: str, message: str, tmp_path: Path) -> None:
    policy = load_policy(save("qwen2", tmp_path / "base"), FLOAT)
    policy.save(tmp_path / "best")
    assert not (tmp_path / "best" / "adapter" / "quantization.json").exists()
    (tmp_path / "best" / "adapter" / "quantization.json").write_text(content)
    with pytest.raises(TrimtabError, match=message):
        load_policy(str(tmp_path / "best" / "adapter"))


def test_a_reference_shares_the_four_bits(bnb: Any, tmp_path: Path) -> None:
    policy = disturb(quiet(save("qwen2", tmp_path), PACKED))
    reference = frozen_copy(policy)
    theirs = dict(reference.named_parameters())
    assert all(w is theirs[name] for name, w in policy.named_parameters() if not w.requires_grad)
    with torch.no_grad():
        before = reference(pack([GROUP])).logps
        disturb(policy, seed=2)
        assert torch.equal(reference(pack([GROUP])).logps, before)
        assert (policy(pack([GROUP])).logps - before).abs().max() > 1e-3


@pytest.mark.parametrize("bf16", [False, True])
def test_training_evaluation_and_decoding_see_the_same_weights(bf16: bool, bnb: Any, tmp_path: Path) -> None:
    """Whatever faster kernels there are for one of them: without gradients, or for a single row."""
    settings = ModelSettings(precision="bf16" if bf16 else "float32", lora=PACKED.lora)
    policy = disturb(quiet(save("qwen2", tmp_path), settings))
    before = hash_weights(policy.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        training = policy.train()(pack(LONG)).logps.detach()
        with torch.no_grad():
            assert torch.equal(policy.eval()(pack(LONG)).logps, training)
        if not bf16:
            row = torch.tensor([[7]])
            with torch.no_grad():
                alone = policy.model(row).logits
            several = policy.model(row.repeat(3, 1)).logits[:1]
            torch.testing.assert_close(alone, several, rtol=1e-4, atol=1e-4)
    assert hash_weights(policy.state_dict()) == before, "frozen, biases too"


def test_a_pass_without_gradients_leaves_later_gradients_alone(bnb: Any, tmp_path: Path) -> None:
    """Of shapes that bitsandbytes would repack on a CPU that multiplies bf16, and then lose the gradient of."""
    torch.manual_seed(0)
    shape = SHAPE | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.2)).save_pretrained(tmp_path)
    policy, grads = disturb(quiet(str(tmp_path), PACKED)), []
    for _ in range(2):
        policy.zero_grad()
        policy.train()(pack(LONG)).logps.sum().backward()
        grads.append(gradients(policy))
        with torch.no_grad():
            policy.eval()(pack(LONG))
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())
    assert all(grad.norm() > 0 for grad in grads[0].values())


def test_without_bitsandbytes_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save("qwen2", tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    wanted = r"lora\.quantize: nf4 needs bitsandbytes.*pip install 'trimtab\[quantize\]'"
    with pytest.raises(TrimtabError, match=wanted):
        load_policy(source, PACKED)


def test_reward_models_are_trained_in_float32() -> None:
    with pytest.raises(ValidationError, match="for language models"):
        RewardModelSettings(lora=LoraSettings(quantize="nf4"))
    assert RewardModelSettings(lora=LoraSettings()).lora is not None
