"""Parameters are exact from the config alone; what a pass holds is counted; parts add up to the peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from trimtab.data.groups import CompletionGroup, pack
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.buckets import attention_plan
from trimtab.models.loading import load_policy
from trimtab.models.settings import LoraSettings, ModelSettings
from trimtab.plan.estimate import disk_of
from trimtab.plan.memory import (
    Live,
    Parameters,
    build,
    count_parameters,
    make_fake,
    sampling_memory,
    stage_memory,
    trace,
    without_data,
)
from trimtab.plan.work import Sampled, StageWork

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": SMALL,
    "qwen3": SMALL | {"head_dim": 16},
    "llama": SMALL | {"tie_word_embeddings": False},
    "gemma2": SMALL | {"head_dim": 16},
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 512},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_equal_a_real_models(family: str, tmp_path: Path) -> None:
    """No weights are in the folder; a model with data in its tensors has as many."""
    config = AutoConfig.for_model(family, **FAMILIES[family])
    config.save_pretrained(tmp_path)
    real = AutoModelForCausalLM.from_config(config)
    found = count_parameters(str(tmp_path))
    assert found.total == found.trained == sum(p.numel() for p in real.parameters())
    assert found.embeddings == real.get_input_embeddings().weight.numel()


def qwen_config() -> Any:
    return Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip


def test_the_full_shape_has_its_published_weights(tmp_path: Path) -> None:
    """494,032,768. An adapter of rank 16 on q, k, v, o, gate, up, down of 24 layers: 16 × the sum of sides."""
    qwen_config().save_pretrained(tmp_path)
    assert count_parameters(str(tmp_path)).total == 494_032_768
    sides = [(896, 896), (896, 128), (896, 128), (896, 896), (896, 4864), (896, 4864), (4864, 896)]
    adapter = 24 * 16 * sum(a + b for a, b in sides)
    found = count_parameters(str(tmp_path), LoraSettings(rank=16))
    assert (found.trained, found.total) == (adapter, 494_032_768 + adapter)


def test_live_storages_are_counted_until_they_go() -> None:
    """a: 400 bytes, kept. b: 800, gone before c: 1,200. Views and operations in place hold nothing more."""
    with FakeTensorMode(), Live() as live:
        a = torch.zeros(100)
        b = torch.zeros(200)
        b.view(10, 20).add_(1)
        assert live.now == 1200
        del b
        c = torch.zeros(300)
    assert (live.now, live.peak) == (400 + 1200, 400 + 1200)
    assert a.numel() + c.numel() == 400


def work(groups: list[CompletionGroup], several: bool = False, **settings: Any) -> StageWork:
    made = SFTSettings(learning_rate=1e-4, **settings)
    return StageWork("sft", "sft", made, 8, 2, 100.0, groups, several, groups, 3, 0.0, 0.0, 1, 0.0)


GROUPS = [CompletionGroup(tuple(range(40)), (tuple(range(60)),)) for _ in range(4)]


def traced(precision: str = "float32", tokens: int = 4, **settings: Any) -> Any:
    batch = pack(GROUPS[:tokens])
    attention_plan(batch)
    config = AutoConfig.for_model("qwen2", **SMALL)
    policy = without_data(config, None, settings.get("gradient_checkpointing", False))
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake(policy)
        return trace(policy, batch, precision, False)


def test_what_a_pass_keeps_is_what_autograd_keeps() -> None:
    """The same pass on tensors with data, its saved tensors counted by autograd's own hooks."""
    batch = pack(GROUPS)
    policy = build(AutoConfig.for_model("qwen2", **SMALL), None, False)
    own = {p.untyped_storage().data_ptr() for p in [*policy.parameters(), *policy.buffers()]}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = policy(batch, entropy=True)
    assert out.logps.numel() == 240
    # The batch's own indices are saved too, and are no activations; results are alive and not saved.
    assert traced().activations == pytest.approx(sum(saved.values()), rel=0.05)


def test_memory_grows_with_tokens_and_shrinks_with_checkpointing() -> None:
    whole, half = traced(), traced(tokens=2)
    assert whole.activations == pytest.approx(2 * half.activations, rel=0.02)
    assert traced(gradient_checkpointing=True).activations < 0.6 * whole.activations
    assert traced("bf16").activations < whole.activations
    assert whole.evaluated < whole.peak


def test_parts_add_up_and_adapters_have_small_moments() -> None:
    config = AutoConfig.for_model("qwen2", **SMALL)
    full = stage_memory(work(GROUPS), config, "float32", True, 0)
    assert full.total == sum(full.parts.values())
    weights = full.parts["weights"]
    assert full.parts["Adam's moments"] == 2 * weights == 2 * full.parts["gradients"]
    eight = stage_memory(work(GROUPS, optimizer="adamw_8bit"), config, "float32", True, 0)
    assert eight.parts["Adam's moments"] == int(2 * (1 + 1 / 64) * weights / 4)
    lora = stage_memory(work(GROUPS, lora={"rank": 2}), config, "float32", True, 0)
    assert lora.parts["weights"] > weights
    assert lora.parts["Adam's moments"] < 0.3 * full.parts["Adam's moments"]
    assert lora.total < full.total
    assert stage_memory(work(GROUPS, several=True), config, "float32", True, 0).total >= full.total


def test_shared_weights_by_hand() -> None:
    """Of four processes each holds a quarter of weights, gradients and moments. While a layer computes, it, the
    next one and what is outside all layers are whole."""
    config = AutoConfig.for_model("qwen2", **SMALL)
    alone = stage_memory(work(GROUPS, sharding="fsdp2"), config, "float32", True, 0)
    assert alone.parts == stage_memory(work(GROUPS), config, "float32", True, 0, 4).parts
    each = stage_memory(work(GROUPS, sharding="fsdp2"), config, "float32", True, 0, 4)
    wide, inner, keys, words = SMALL["hidden_size"], SMALL["intermediate_size"], 2 * 12, SMALL["vocab_size"]
    layer = 2 * wide * wide + 2 * wide * keys + wide + 2 * keys + 3 * wide * inner + 2 * wide
    outside = words * wide * (1 if config.tie_word_embeddings else 2) + wide
    total = 4 * (2 * layer + outside)
    assert alone.parts["weights"] == total
    assert each.phase == "a training pass"
    assert each.parts["weights"] == total / 4
    assert each.parts["Adam's moments"] == 2 * total / 4
    assert each.parts["gradients"] == total / 4 + 4 * max(layer, outside)
    assert each.parts["layers, gathered while they compute"] == 4 * (2 * layer + outside)
    assert each.parts["activations"] == alone.parts["activations"]


def test_four_bits_are_half_a_byte_and_their_scales() -> None:
    """Of every linear weight but the head's: 4 bytes less ½, 1/64 for the scales and 4/16,384 for theirs."""
    config = AutoConfig.for_model("qwen2", **SMALL)
    plain = stage_memory(work(GROUPS, lora={"rank": 2}), config, "float32", True, 0)
    packed = stage_memory(work(GROUPS, lora={"rank": 2, "quantize": "nf4"}), config, "float32", True, 0)
    wide, inner, keys = SMALL["hidden_size"], SMALL["intermediate_size"], 2 * 12
    layer = [wide * wide] * 2 + [wide * keys] * 2 + [wide * inner] * 3
    saved = SMALL["num_hidden_layers"] * sum(layer) * (4 - 0.5 - 1 / 64 - 4 / 16384)
    assert plain.parts["weights"] - packed.parts["weights"] == pytest.approx(saved, abs=1)
    assert packed.parts["a layer read back from four bits"] == 4 * wide * inner


def test_keys_and_values_by_hand() -> None:
    """2 layers · 2 key heads of 12 · 2 (keys, values) · 4 bytes = 384 a column; 6 rows of 1.5 · 40 + 32 columns."""
    config = AutoConfig.for_model("qwen2", **SMALL)
    found = sampling_memory(config, Sampled(12, 30, 6, 10.0))
    assert found["keys and values"] == 384 * 6 * 92
    assert found["draw over the vocabulary"] == 36 * 6 * 512


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "embed_tokens"], ["lm_head"]])
def test_what_is_saved_is_as_large_as_planned(targets: list[str], tied: bool, tmp_path: Path) -> None:
    """An adapter on one of two tied ends parts them; peft writes such an end once more."""
    config = AutoConfig.for_model("qwen2", **SMALL | {"tie_word_embeddings": tied})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    lora = LoraSettings(rank=2, targets=targets)
    policy = load_policy(str(tmp_path / "model"), ModelSettings(lora=lora))
    policy.save(tmp_path / "saved")
    bytes_saved = sum(
        tensor.numel() * 4
        for file in (tmp_path / "saved").rglob("*.safetensors")
        for tensor in load_file(file).values()
    )
    planned = disk_of(work(GROUPS), count_parameters(str(tmp_path / "model"), lora), validated=False)
    assert planned.left == bytes_saved


def test_the_last_weights_may_be_kept_too() -> None:
    """Where validation chooses, and finds no step better than none."""
    sizes = Parameters(total=1000, trained=1000, embeddings=100)
    chosen, last = work(GROUPS), work(GROUPS, best_metric="step", best_is="highest")
    assert [disk_of(chosen, sizes, v).left for v in (True, False)] == [8000, 4000]
    assert disk_of(last, sizes, True).left == 4000
