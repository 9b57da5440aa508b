"""A model's folder as a GGUF file for llama.cpp, Ollama and what is built on them.

llama.cpp's own converter, convert_hf_to_gguf.py, is on no package index in a form that a program can rely on:
gguf, by the same authors, leaves it out; llama-cpp-python has it in a source archive that wants a compiler;
others have copies by third parties, which install another gguf over the real one. It also knows tokenizers by a
hash of what they make of one text, and refuses all that it has not seen. So the small part of it that language
models of these families need is here, on gguf's writer, names and quantisation; `tests/models` has llama.cpp
read what it writes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

from trimtab.errors import TrimtabError
from trimtab.files import write_file
from trimtab.json_types import JsonObject
from trimtab.models.gguf.config import LAYERS_OF_27B, MODEL_TYPES, llama3_factors
from trimtab.models.gguf.vocabulary import add_vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig

KINDS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""What weights can be written in -> GGML's name. Norms and biases are always float32."""
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
ARCHITECTURES = {theirs: ours for ours, theirs in MODEL_TYPES.items()} | {"mistral": "llama"}
ACTIVATIONS = {
    "llama": "silu",
    "qwen2": "silu",
    "qwen3": "silu",
    "gemma2": "gelu_pytorch_tanh",
    "gemma3": "gelu_pytorch_tanh",
}
PATTERNS = {"gemma2": 2, "gemma3": 6}
"""Of these families every so manieth layer sees all, and the others a window; llama.cpp has this in its code."""


def write_gguf(folder: Path, out: Path, kind: str) -> None:
    """Writes a model's folder as one GGUF file. kind: of `KINDS`. TrimtabError where llama.cpp's model of the
    family would compute something else, or its tokenizer split text otherwise."""
    gguf = package()
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
        architecture = _architecture(config)
        writing = Writing(gguf, folder, config, architecture, kind)
        write_file(out, writing.write)
    except TrimtabError as error:
        raise TrimtabError(f"{out.name}: {folder} cannot be written as GGUF: {error}") from None


def package() -> Any:
    """The package gguf. TrimtabError where it is not installed."""
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise TrimtabError("GGUF needs the package gguf. Install it: pip install 'trimtab[gguf]'") from None


@dataclass
class Writing:
    """One file that is being written. config: transformers', of the model."""

    gguf: Any
    folder: Path
    config: PretrainedConfig
    architecture: str
    kind: str
    names: Any = field(init=False)

    def __post_init__(self) -> None:
        arch = next(key for key, name in self.gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        self.names = self.gguf.get_tensor_name_map(arch, self.config.num_hidden_layers)

    def write(self, path: Path) -> None:
        """The file, tensor by tensor, so that memory holds one at a time."""
        writer = self.gguf.GGUFWriter(path, self.architecture)
        writer.add_type("model")
        writer.add_name(self.folder.name)
        writer.add_file_type(int(self.gguf.LlamaFileType[FILE_TYPES[self.kind]]))
        writer.add_quantization_version(self.gguf.GGML_QUANT_VERSION)
        self._add_settings(writer)
        add_vocabulary(writer, self.gguf, self.folder, self._rows())
        tensors = [(name, data.shape, self._type_of(name, data.shape)) for name, data in self._tensors(empty=True)]
        for name, shape, kind in tensors:
            held = self.gguf.quant_shape_to_byte_shape(shape, kind)
            plain = kind in (self.gguf.GGMLQuantizationType.F32, self.gguf.GGMLQuantizationType.F16)
            dtype = np.dtype(np.float32 if kind.name == "F32" else np.float16 if plain else np.uint8)
            writer.add_tensor_info(name, shape if plain else held, dtype, int(np.prod(held)), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for (_, _, kind), (_, data) in zip(tensors, self._tensors(), strict=True):
            writer.write_tensor_data(self.gguf.quants.quantize(data, kind))
        writer.close()

    def _type_of(self, name: str, shape: tuple[int, ...]) -> Any:
        """What a tensor is kept in: as llama.cpp's converter chooses."""
        types = self.gguf.GGMLQuantizationType
        if len(shape) < 2 or name.endswith("_norm.weight"):
            return types.F32
        kind = types[KINDS[self.kind]]
        block = int(self.gguf.GGML_QUANT_SIZES[kind][0])
        return kind if shape[-1] % block == 0 else types.F16

    def _rows(self) -> int:
        """Rows of the embedding, one for each token."""
        return int(next(data.shape[0] for name, data in self._tensors(empty=True) if name == "token_embd.weight"))

    def _tensors(self, empty: bool = False) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """GGUF's name and values of every tensor, in the file's order. empty: shapes alone."""
        if (factors := _rope_factors(self.config)) is not None:
            yield "rope_freqs.weight", factors
        for file in sorted(self.folder.glob("*.safetensors")):
            with safe_open(file, "pt") as held:
                for name in held.keys():  # noqa: SIM118
                    if name == "lm_head.weight" and self.config.tie_word_embeddings:
                        continue
                    if empty:
                        shape = tuple(held.get_slice(name).get_shape())
                        yield self._gguf_name(name), np.broadcast_to(np.float32(0), shape)
                    else:
                        weight = held.get_tensor(name).to(torch.float32).numpy()
                        yield self._gguf_name(name), self._laid_out(name, weight)

    def _gguf_name(self, name: str) -> str:
        found: str | None = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise TrimtabError(f"its tensor {name} has no name in GGUF's {self.architecture}.")
        return found

    def _laid_out(self, name: str, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """A weight as llama.cpp wants it: of Llama the two halves of each head's rotary dimensions by turns, of
        Gemma's norms 1 + w."""
        if self.architecture == "llama":
            heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
            for layer, count in heads.items():
                if f".{layer}." in name:
                    halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
                    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
        if self.architecture.startswith("gemma") and name.endswith("norm.weight"):
            return weight + np.float32(1)
        return weight

    def _add_settings(self, writer: Any) -> None:
        """The config's numbers."""
        config = self.config
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(_head_dim(config))
        writer.add_value_length(_head_dim(config))
        rope = _rope(config)
        writer.add_rope_freq_base(rope["rope_theta"])
        _add_scaling(writer, self.gguf, rope)
        if self.architecture == "llama":
            writer.add_rope_dimension_count(_head_dim(config))
            writer.add_vocab_size(self._rows())
        if self.architecture.startswith("gemma"):
            writer.add_sliding_window(config.sliding_window)
            for name in ("attn_logit_softcapping", "final_logit_softcapping"):
                if (cap := getattr(config, name, None)) is not None:
                    getattr(writer, f"add_{name}")(cap)
        if self.architecture == "gemma3":
            writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def _head_dim(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope(config: PretrainedConfig) -> JsonObject:
    """The rotary positions; of Gemma 3 those of layers that see all."""
    rope: JsonObject = config.rope_parameters
    whole: JsonObject = rope.get("full_attention", rope)
    return whole


def _add_scaling(writer: Any, gguf: Any, rope: JsonObject) -> None:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return
    if kind not in ("linear", "yarn"):
        raise TrimtabError(f"its positions are scaled by {kind}, which is not written.")
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        if rope.get("attention_factor") is not None:
            raise TrimtabError("its positions are scaled by yarn with an attention_factor, which is not written.")
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)


def _rope_factors(config: PretrainedConfig) -> NDArray[np.float32] | None:
    """What Llama 3's scaling divides each rotary frequency by [head size / 2]: llama.cpp keeps it as a tensor."""
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    return llama3_factors(
        rope["rope_theta"], _head_dim(config), rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
        rope["original_max_position_embeddings"],
    )  # fmt: skip


def _architecture(config: PretrainedConfig) -> str:
    """GGUF's name of a config's family. TrimtabError where llama.cpp's code for it computes something else."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise TrimtabError(f"its family is {config.model_type}; written are {', '.join(ARCHITECTURES)}.")
    for is_other, what in _differences(config, architecture):
        if is_other(config):
            raise TrimtabError(f"llama.cpp's {architecture} has no {what}.")
    return architecture


def _differences(
    config: PretrainedConfig, architecture: str
) -> list[tuple[Callable[[PretrainedConfig], bool], str]]:
    """What a config can ask for that llama.cpp's code for the family does not do."""
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    layers = config.num_hidden_layers
    checks: list[tuple[Callable[[PretrainedConfig], bool], str]] = [
        (lambda c: activation != ACTIVATIONS[architecture], f"activation {activation}"),
        (lambda c: architecture == "qwen3" and bool(c.attention_bias), "biases"),
        (
            lambda c: architecture == "qwen2" and _head_dim(c) * c.num_attention_heads != c.hidden_size,
            "heads that are not the hidden size together",
        ),
        (lambda c: getattr(c, "length_encoding", None) is not None, "input beside token ids (length encoding)"),
    ]
    if architecture in PATTERNS:
        every = PATTERNS[architecture]
        usual = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
        whole = LAYERS_OF_27B[architecture] == layers
        scale = config.hidden_size // config.num_attention_heads if whole else _head_dim(config)
        checks += [
            (lambda c: list(c.layer_types) != usual, "other order of windows and full attention"),
            (lambda c: c.query_pre_attn_scalar != scale, f"query_pre_attn_scalar but {scale}"),
        ]
    else:
        windowed = getattr(config, "use_sliding_window", config.model_type == "mistral")
        window = getattr(config, "sliding_window", None) if windowed else None
        checks.append((lambda c: bool(window) and window < c.max_position_embeddings, "sliding window"))
    return checks
