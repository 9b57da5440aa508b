"""Classifiers with one label, small and random; a tokenizer as Llama 3's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast, Qwen2Config

from conftest import byte_tokenizer
from trimtab.rewards.settings import AnyReward
from trimtab.rewards.settings_base import RewardSettings

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}"
)


def reward_settings(**settings: Any) -> RewardSettings:
    """A reward's settings, as a recipe has them."""
    found: RewardSettings = TypeAdapter(AnyReward).validate_python(settings)
    return found


def write(folder: Path, config: Any, tokenizer: Any, labels: int = 1) -> Path:
    config.num_labels, config.vocab_size = labels, max(len(tokenizer), 8)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen(**settings: Any) -> Qwen2Config:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = {"num_key_value_heads": 1, "max_position_embeddings": 96, "pad_token_id": 1, **shape, **settings}
    return Qwen2Config(**settings)


def bert() -> BertConfig:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertConfig(max_position_embeddings=40, **shape)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """BOS (0) is written by the template, and by the tokenizer before every text. eot is 1, pad 3."""
    special = ("<|begin|>", "<|eot|>", "<|start|>", "<|pad|>")
    names = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[3]}
    return byte_tokenizer(LLAMA, special, special[0], **names)
