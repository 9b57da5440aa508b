"""A GGUF file's metadata as a transformers config.

transformers 5.23 reads GGUF configs of these families itself, but leaves out what changes the model without
changing its shapes: the scaling of rotary positions (also where it stands in a tensor, as for Llama 3.1), soft
caps and the scale of attention (Gemma 2), Qwen 3's head size. So they are read here, from every key that
llama.cpp's converter writes for them; a key that is none of these is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MODEL_TYPES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3": "gemma3_text",
}  # fmt: skip
"""GGUF's architecture -> transformers' model type, of those that are read here and tested."""
PLAIN = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
SOFT_CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
}  # fmt: skip
READ_OTHERWISE = {
    "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "vocab_size", "attention.causal",
}  # fmt: skip
IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
LLAMA3 = [(factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0, 16.0, 4.0, 2.0)]
"""factor, low_freq_factor, high_freq_factor, original_max_position_embeddings of Llama 3.1 and those like it: a
GGUF holds only what follows from them."""
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""The sizes whose attention is scaled by another number than the head's size, as llama.cpp tells them apart."""


class Facts:
    """What the head of a GGUF file says. metadata: key -> value. tensors: name -> shape, rows first."""

    def __init__(self, metadata: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]]) -> None:
        self.metadata, self.tensors = metadata, tensors
        self.architecture = str(metadata.get("general.architecture", ""))

    def get(self, name: str, default: object = None) -> object:
        """A setting of the architecture, such as "block_count"."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def number(self, name: str) -> float | None:
        """A setting that is one number; None where it is not there."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TrimtabError(f"its {self.architecture}.{name} is no number, but differs between layers.")
        return value

    def needed(self, name: str) -> int:
        """A setting that a model cannot do without."""
        value = self.number(name)
        if value is None:
            raise TrimtabError(f"its metadata lacks {self.architecture}.{name}.")
        return int(value)


def config_of(facts: Facts, rope_factors: np.ndarray | None) -> PretrainedConfig:
    """The config of a file of one of `MODEL_TYPES`. rope_factors: its tensor rope_freqs.weight [head size / 2].
    TrimtabError, without the file's name, where its metadata say what transformers' model cannot do."""
    from transformers import AutoConfig

    values: JsonObject = {theirs: facts.needed(ours) for ours, theirs in PLAIN.items()}
    heads = values["num_attention_heads"]
    head_dim = int(facts.number("attention.key_length") or values["hidden_size"] // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if facts.number(name) not in (None, head_dim):
            raise TrimtabError(
                f"its {name} is {facts.number(name)}, its heads' size {head_dim}, which is not read."
            )
    if facts.get("attention.causal") is False:
        raise TrimtabError("its attention is not causal: it is no language model.")
    values |= {
        "head_dim": head_dim,
        "rms_norm_eps": _as_written(facts.number("attention.layer_norm_rms_epsilon") or 1e-6),
        "vocab_size": facts.tensors["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in facts.tensors,
        "rope_parameters": _rope(facts, head_dim, rope_factors),
        **{theirs: facts.metadata.get(f"tokenizer.ggml.{ours}") for theirs, ours in IDS.items()},
        **_of_family(facts, head_dim, values),
    }
    _say_unread(facts)
    return AutoConfig.for_model(MODEL_TYPES[facts.architecture], **values)


def _of_family(facts: Facts, head_dim: int, values: JsonObject) -> JsonObject:
    """What only one family has."""
    if facts.architecture == "llama":
        biased = {"attention_bias": "blk.0.attn_output.bias", "mlp_bias": "blk.0.ffn_down.bias"}
        return {name: tensor in facts.tensors for name, tensor in biased.items()}
    if not facts.architecture.startswith("gemma"):
        return {}
    whole = LAYERS_OF_27B[facts.architecture] == values["num_hidden_layers"]
    own: JsonObject = {
        "query_pre_attn_scalar": values["hidden_size"] // values["num_attention_heads"] if whole else head_dim,
        **{theirs: facts.number(ours) for ours, theirs in SOFT_CAPS.items()},
    }
    window = facts.number("attention.sliding_window")
    if window is None:
        return own | {"layer_types": ["full_attention"] * values["num_hidden_layers"]}
    return own | {"sliding_window": int(window)}


def _rope(facts: Facts, head_dim: int, factors: np.ndarray | None) -> JsonObject:
    """The rotary positions; for Gemma 3 those of each kind of layer."""
    usual = 1_000_000.0 if facts.architecture == "gemma3" else 10_000.0
    base = facts.number("rope.freq_base") or usual
    kind, factor = facts.get("rope.scaling.type", "none"), facts.number("rope.scaling.factor")
    rope: JsonObject = {"rope_type": "default", "rope_theta": base}
    if factors is not None:
        rope |= _llama3(base, head_dim, factors)
    elif kind in ("linear", "yarn") and factor:
        rope |= {"rope_type": kind, "factor": factor}
        length = facts.number("rope.scaling.original_context_length")
        if kind == "yarn" and length:
            rope["original_max_position_embeddings"] = int(length)
        for name in ("beta_fast", "beta_slow"):
            if (value := facts.number(f"rope.scaling.yarn_{name}")) is not None:
                rope[name] = value
    elif kind != "none":
        raise TrimtabError(f"its positions are scaled by {kind}, which is not read.")
    if facts.architecture == "gemma3":
        near = {"rope_type": "default", "rope_theta": facts.number("rope.freq_base_swa") or 10_000.0}
        return {"full_attention": rope, "sliding_attention": near}
    return rope


def _llama3(base: float, head_dim: int, factors: np.ndarray) -> JsonObject:
    """The settings of Llama 3's scaling that give these divisors of the rotary frequencies."""
    for factor, low, high, length in LLAMA3:
        if np.allclose(llama3_factors(base, head_dim, factor, low, high, length), factors, rtol=1e-4):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": length,
            }  # fmt: skip
    raise TrimtabError("its rope_freqs.weight is none of the scalings of Llama 3 that transformers can be told.")


def llama3_factors(base: float, head_dim: int, factor: float, low: float, high: float, length: int) -> np.ndarray:
    """What Llama 3.1 divides each rotary frequency by [head size / 2]: llama.cpp's conversion/llama.py."""
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (length / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelengths > length / low, factor, between)
    return np.where(wavelengths < length / high, 1.0, divisors).astype(np.float32)


def _as_written(value: float) -> float:
    """The shortest decimal of a number that is kept in 32 bits: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _say_unread(facts: Facts) -> None:
    known = {*PLAIN, *SOFT_CAPS, *READ_OTHERWISE}
    prefix = f"{facts.architecture}."
    unread = [key for key in facts.metadata if key.startswith(prefix) and key.removeprefix(prefix) not in known]
    if unread:
        warn(
            f"GGUF: {', '.join(sorted(unread))} in its metadata: not read, so that the model may be another", "GGUF"
        )
