"""A GGUF file's model as a Hugging Face folder in float32.

transformers names and lays out the weights, and gguf dequantises them. Every tensor of the file must have gone
into the model, and every weight of the model must have come from the file: what transformers passes over in
silence is refused here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers import __version__ as transformers_version

from trimtab.data.tokenizer import json_of, save_tokenizer
from trimtab.errors import TrimtabError, reason_of
from trimtab.json_types import JsonObject
from trimtab.models.folder import CONFIG, GENERATION, save_folder
from trimtab.models.gguf.config import MODEL_TYPES, Facts, config_of
from trimtab.models.gguf.tokens import read_tokenizer, stop_tokens
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ROPE_FACTORS = "rope_freqs.weight"
PACKAGE = "model {}: reading GGUF needs the package gguf. Install it: pip install 'trimtab[gguf]'"


def write_folder(file: Path, folder: Path) -> JsonObject:
    """Writes the model, tokenizer and configs of a GGUF file to a folder, and returns what is told of the file.
    TrimtabError where it cannot be read, or not rightly."""
    try:
        import gguf
    except ImportError:
        raise TrimtabError(PACKAGE.format(file)) from None
    try:
        metadata, tensors = _head(gguf, file)
        facts = Facts(metadata, {name: shape for name, (shape, _) in tensors.items()})
        _refuse_parts(facts)
        tokenizer = read_tokenizer(str(file), metadata)
        model = _load(file, _config(gguf, file, facts), facts)
    except TrimtabError as error:
        raise TrimtabError(f"model {file}: {error}") from None
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(f"model {file}: a GGUF file that cannot be read: {reason_of(error)}") from error
    ends = stop_tokens(metadata)
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=model.config.pad_token_id,
    )
    save_folder(model, folder, str(folder))
    save_tokenizer(tokenizer, folder)
    for name in (CONFIG, GENERATION):  # the folder is the same whichever version made it
        said = {key: value for key, value in json_of(str(folder), name).items() if key != "transformers_version"}
        (folder / name).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return {"quantisation": _quantisation(gguf, metadata, tensors), "architecture": facts.architecture}


def _head(gguf: Any, file: Path) -> tuple[JsonObject, dict[str, tuple[tuple[int, ...], int]]]:
    """A file's metadata, and of each tensor its shape, rows first, and GGML type."""
    reader = gguf.GGUFReader(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: (tuple(int(size) for size in reversed(tensor.shape)), int(tensor.tensor_type))
        for tensor in reader.tensors
    }
    return metadata, tensors


def _refuse_parts(facts: Facts) -> None:
    """TrimtabError for one file of several, and for what is no language model's."""
    if int(facts.metadata.get("split.count") or 1) > 1:  # type: ignore[call-overload]
        raise TrimtabError("one of several parts, which are not read. Join them: llama-gguf-split --merge")
    if "token_embd.weight" not in facts.tensors:
        raise TrimtabError(f"a GGUF file of {facts.architecture or 'no architecture'}, not of a language model.")


def _config(gguf: Any, file: Path, facts: Facts) -> PretrainedConfig:
    """The model's config: read here where the family is known, else as transformers reads it."""
    if facts.architecture in MODEL_TYPES:
        factors = None
        if ROPE_FACTORS in facts.tensors:
            held = next(tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == ROPE_FACTORS)
            factors = np.array(held.data)
        config = config_of(facts, factors)
    else:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        warn(
            f"model {file.name}: a GGUF file of {facts.architecture}, whose config is taken as transformers "
            f"{transformers_version} reads it; trimtab compares only {', '.join(MODEL_TYPES)} with their originals",
            "GGUF",
        )
    return config


def _load(file: Path, config: PretrainedConfig, facts: Facts) -> PreTrainedModel:
    """The model in float32, which no longer knows where it came from. TrimtabError where tensors are left over."""
    from transformers import GgufConfig

    model, info = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, config=config, dtype=torch.float32, output_loading_info=True,
        quantization_config=GgufConfig(dequantize=True),
    )  # fmt: skip
    if missing := sorted(info.get("missing_keys", [])):
        raise TrimtabError(f"a GGUF file without {missing[0]}, which its architecture {facts.architecture} has.")
    held = sum(int(np.prod(shape)) for name, shape in facts.tensors.items() if name != ROPE_FACTORS)
    loaded = sum(weight.numel() for weight in model.parameters())
    if held != loaded:
        raise TrimtabError(
            f"its tensors hold {held:,} numbers, and the model that transformers {transformers_version} makes of "
            f"them {loaded:,}: some would be lost. Name the model that it was made from."
        )
    # transformers refuses to save what came from GGUF, though by now the weights are plain.
    for holder in (model, model.config):
        for name in ("hf_quantizer", "quantization_method", "quantization_config", "_pre_quantization_dtype"):
            if hasattr(holder, name):
                delattr(holder, name)
    model.is_quantized = False
    return model


def _quantisation(gguf: Any, metadata: JsonObject, tensors: dict[str, tuple[tuple[int, ...], int]]) -> str:
    """What the file's kind of weights is called, as in Q4_K_M."""
    kind = metadata.get("general.file_type")
    if kind is not None and kind in {int(member) for member in gguf.LlamaFileType}:
        return str(gguf.LlamaFileType(kind).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    most = max(tensors.values(), key=lambda tensor: int(np.prod(tensor[0])))
    return str(gguf.GGMLQuantizationType(most[1]).name)
