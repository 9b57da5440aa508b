"""Folders as real families ship them, small: their configs' oddities, special tokens and chat templates.

Templates are written anew, shorter; what they do to a conversation is the families' own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import byte_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
ENTRIES = 320
"""More than the tokenizer has, as most families' embeddings are."""
ASKS = "{% if add_generation_prompt %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
FIRST = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are an assistant<|im_end|>\n{% endif %}"
CHATML_WITH_SYSTEM = (
    FIRST + "{% for m in messages %}" + TURN + "{% endfor %}" + ASKS + "<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (  # an answer has a block of thoughts, if an empty one; earlier answers lose theirs
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}"
    "<|im_start|>assistant\n{% if loop.last %}<think>\n{{ parts[0].split('<think>')[-1].strip('\n') "
    "if parts | length > 1 else '' }}\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\n') }}<|im_end|>\n{% else %}"
    + TURN + "{% endif %}{% endfor %}" + ASKS + "<|im_start|>assistant\n{% if enable_thinking is defined and "
    "not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)  # fmt: skip
LLAMA3 = (
    "{{ bos_token }}{% set said = messages[0].content if messages[0].role == 'system' else '' %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: "
    "{{ strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' }}\n\n{{ said }}<|eot_id|>"
    "{% for m in messages %}{% if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    + ASKS + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)  # fmt: skip
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
MISTRAL = "{{ bos_token }}" + ALTERNATES + (
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)  # fmt: skip
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + ALTERNATES + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}" + ASKS + "<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    + ASKS + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)  # fmt: skip
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}{{ '\n' if not loop.last }}{% endfor %}"
    + ASKS + "{{ '\n<|assistant|>\n' }}{% endif %}"
)  # fmt: skip
ENDED = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    + ASKS + "<|assistant|>\n{% endif %}"
)  # fmt: skip
FALCON = (  # ends no turn: eos is ours to add
    "{% for m in messages %}{{ '\n\n' if not loop.first }}{{ 'User' if m.role == 'user' else 'Assistant' }}: "
    "{{ m.content }}{% endfor %}" + ASKS + "{{ '\n\nAssistant:' }}{% endif %}"
)
GRANITE = (
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n"
    "{% endfor %}" + ASKS + "<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
LFM2 = (
    "{{ bos_token }}{% for m in messages %}" + TURN + "{% endfor %}" + ASKS + "<|im_start|>assistant\n{% endif %}"
)
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
)  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64, "factor": 8.0,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "output_router_logits": True, "router_aux_loss_coef": 0.01,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """kind: model_type. special: tokens with ids from 0. names: of the tokenizer's own. ends: tokens that the
    folder's generation_config says end a text. writes_bos: the tokenizer puts it before every text."""

    kind: str
    special: tuple[str, ...]
    names: dict[str, str]
    ends: tuple[str, ...]
    template: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    writes_bos: str | None = None
    ends_turn: str = ""
    """What ends an answer; "": the tokenizer's eos."""


def _same(token: str, *more: str) -> dict[str, str]:
    return dict.fromkeys(("eos_token", *more), token)


_TEXT = "<|endoftext|>"
_SAMPLES = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
_SMALL_QWEN = Family(
    "qwen2", CHATML, _same("<|im_end|>") | {"pad_token": _TEXT}, ("<|im_end|>", _TEXT),
    CHATML_WITH_SYSTEM, {"tie_word_embeddings": True}, _SAMPLES,
)  # fmt: skip
REAL: dict[str, Family] = {
    "SmolLM2-Instruct": Family(
        "llama", CHATML, _same("<|im_end|>", "pad_token") | {"bos_token": "<|im_start|>"}, ("<|im_end|>",),
        CHATML_WITH_SYSTEM, {"tie_word_embeddings": True},
    ),
    "SmolLM2 base": Family(
        "llama", CHATML, _same(_TEXT, "bos_token"), (_TEXT,), None, {"tie_word_embeddings": True}
    ),
    "Qwen2.5-Instruct": _SMALL_QWEN,
    "Qwen2.5 base": Family(
        "qwen2", CHATML, _same(_TEXT, "pad_token"), (_TEXT,), CHATML_WITH_SYSTEM, {"tie_word_embeddings": False},
        {"max_new_tokens": 2048}, ends_turn="<|im_end|>",
    ),
    "Qwen3": Family(
        "qwen3", CHATML, _same("<|im_end|>") | {"pad_token": _TEXT}, ("<|im_end|>", _TEXT), QWEN3,
        {"tie_word_embeddings": True, "head_dim": 16},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
    ),
    "Llama 3.2": Family(
        "llama", LLAMA3_TOKENS, _same("<|eot_id|>") | {"bos_token": "<|begin_of_text|>"},
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), LLAMA3,
        {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9}, "<|begin_of_text|>",
    ),
    "Mistral": Family(
        "mistral", ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), _same("</s>") | {"bos_token": "<s>"}, ("</s>",),
        MISTRAL, {"sliding_window": None}, {}, "<s>",
    ),
    "Gemma 2": Family(
        "gemma2", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        _same("<eos>") | {"bos_token": "<bos>", "pad_token": "<pad>"}, ("<eos>", "<end_of_turn>"),
        GEMMA, {"sliding_window": 16, "head_dim": 8, "query_pre_attn_scalar": 8}, {}, "<bos>", "<end_of_turn>",
    ),
    "Phi-3.5": Family(
        "phi3", ("<unk>", "<s>", "</s>", _TEXT, "<|assistant|>", "<|end|>", "<|user|>"),
        _same(_TEXT, "pad_token") | {"bos_token": "<s>"}, (_TEXT, "<|assistant|>", "<|end|>"), PHI3,
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}, {}, None, "<|end|>",
    ),
    "Phi-2": Family("phi", (_TEXT,), _same(_TEXT, "bos_token"), (_TEXT,), None, {"num_key_value_heads": 4}),
    "OLMo 2": Family(
        "olmo2", (_TEXT, "<|pad|>"), _same(_TEXT, "bos_token") | {"pad_token": "<|pad|>"}, (_TEXT,), OLMO2
    ),
    "Falcon": Family(
        "falcon", (_TEXT,), _same(_TEXT, "bos_token"), (_TEXT,), FALCON,
        {"tie_word_embeddings": True, "multi_query": True},
    ),
    "Pythia": Family(
        "gpt_neox", (_TEXT,), _same(_TEXT, "bos_token"), (_TEXT,), None, {"tie_word_embeddings": False}
    ),
    "GPT-2": Family(
        "gpt2", (_TEXT,), _same(_TEXT, "bos_token"), (_TEXT,), None,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    ),
    "StableLM Zephyr": Family(
        "stablelm", (_TEXT,), _same(_TEXT, "bos_token", "pad_token"), (_TEXT,), ENDED, {"num_key_value_heads": 4}
    ),
    "Granite 3": Family(
        "granite", ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        _same("<|end_of_text|>", "bos_token", "pad_token"), ("<|end_of_text|>",), GRANITE,
        {"tie_word_embeddings": True, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
         "residual_multiplier": 0.5, "attention_multiplier": 0.25},
    ),
    "SmolLM3": Family(
        "smollm3", CHATML, _same("<|im_end|>") | {"bos_token": _TEXT, "pad_token": _TEXT}, ("<|im_end|>",), QWEN3,
        {"no_rope_layer_interval": 2, "tie_word_embeddings": True}, {"do_sample": True, "temperature": 0.6},
    ),
    "LFM2": Family(
        "lfm2", ("<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>"),
        _same("<|im_end|>") | {"bos_token": "<|startoftext|>", "pad_token": "<|pad|>"}, ("<|im_end|>",), LFM2,
        {"layer_types": ["conv", "full_attention"], "tie_word_embeddings": True, "block_multiple_of": 8}, {},
        "<|startoftext|>",
    ),
    "Mixtral": Family(
        "mixtral", ("<unk>", "<s>", "</s>"), _same("</s>") | {"bos_token": "<s>"}, ("</s>",), MISTRAL, EXPERTS, {},
        "<s>",
    ),
    "Qwen3 MoE": Family(
        "qwen3_moe", CHATML, _same("<|im_end|>") | {"pad_token": _TEXT}, ("<|im_end|>", _TEXT), QWEN3,
        EXPERTS | {"head_dim": 8},
    ),
    "OLMoE": Family(
        "olmoe", (_TEXT, "<|padding|>"), _same(_TEXT) | {"pad_token": "<|padding|>"}, (_TEXT,), ENDED, EXPERTS
    ),
}  # fmt: skip


def write_family(name: str, folder: Path, seed: int = 0) -> Path:
    """A random model of the family in a folder, with the files that its models ship with."""
    family = REAL[name]
    tokenizer = byte_tokenizer(family.template, family.special, family.writes_bos, **family.names)
    ends = [family.special.index(token) for token in family.ends]
    shape = {} if family.kind == "gpt2" else SHAPE
    config = AutoConfig.for_model(
        family.kind, **shape | {"vocab_size": ENTRIES} | family.config,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | family.generation | {"eos_token_id": ends}))
    return folder
