"""Small models of the families that GGUF is read and written for, as Hugging Face folders and as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from conftest import CHATML, CHATML_TOKENS
from trimtab.models.gguf import write
from trimtab.models.gguf.write import write_gguf

ROWS = 328
SHAPE: dict[str, Any] = {
    "vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
"""Heads larger than hidden / heads, so that their size has to be read; llama.cpp's Qwen2 has none such."""
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
GEMMA: dict[str, Any] = SHAPE | {"sliding_window": 6, "query_pre_attn_scalar": 32}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE, rms_norm_eps=1e-5, tie_word_embeddings=True),
    "llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama_biased": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SHAPE | {"head_dim": 16}, rope_parameters=YARN),
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=1.5),
    "gemma3": Gemma3TextConfig(
        **GEMMA | {"num_hidden_layers": 6},
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
        },
    ),
}
KINDS = {"q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1"}
"""Quantisations that gguf's Python can write, beside those that trimtab does."""
TEXTS = [
    "the cat sat on the mat and the dog sat there",
    "two  5 cats   and 1234 dogs",
    "It's 3.14, DON'T we'll\n\n\nsee",
]


def byte_level(split: str = "gpt-2", **names: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 entries and a few added ones, that splits as `split`, GGUF's name, says."""
    core = Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split in GGUF_PRE_TOKENIZER_SPLITS:
        by_text = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[split]), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.pre_tokenizer = pre_tokenizers.Sequence([by_text, bytes_only])
    elif split == "smollm":
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    else:
        core.pre_tokenizer = whole
    if split == "qwen2":
        core.normalizer = normalizers.NFC()
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(CHATML_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, **{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | names
    )
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = CHATML
    return tokenizer


def sentencepiece(prefix: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of Llama 2's kind with bytes to fall back on. prefix: a space before every text, as Llama 2 has
    it; without it is one as Gemma's."""
    core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    before = [normalizers.Prepend("▁")] if prefix else []
    core.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    core.train_from_iterator([f"▁{word}" for text in TEXTS for word in text.split()] * 4, trainer)
    value = json.loads(core.to_str())  # bytes are tokens as others are, and not special
    value["added_tokens"] = [token for token in value["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(value)), bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", pad_token="<s>", add_bos_token=True,
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    return tokenizer


def write_original(folder: Path, family: str = "qwen2", tokenizer: Any = None) -> Path:
    """A random model of a family with a tokenizer, as transformers saves it. Weights are large enough that soft
    caps, windows and positions matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    for name, weight in model.named_parameters():
        if weight.ndim > 1 or "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, std=0.2)
            if "norm" in name and not family.startswith("gemma"):
                weight.data += 1
    model.generation_config.eos_token_id = [0, 1]
    model.save_pretrained(folder)
    (tokenizer or byte_level()).save_pretrained(folder)
    return folder


def as_gguf(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "f32", out: Path | None = None) -> Path:
    """The folder's model as a GGUF file beside it, in any kind that gguf can write."""
    for name, theirs in KINDS.items():
        monkeypatch.setitem(write.KINDS, name, theirs)
        monkeypatch.setitem(write.FILE_TYPES, name, f"MOSTLY_{theirs}")
    out = out or folder.with_name(f"{folder.name}.{kind}.gguf")
    write_gguf(folder, out, kind)
    return out


def tensors_of(file: Path) -> dict[str, torch.Tensor]:
    """A file's tensors by gguf alone, in float32."""
    return {
        held.name: torch.from_numpy(dequantize(held.data, held.tensor_type).copy())
        for held in GGUFReader(file).tensors
    }
