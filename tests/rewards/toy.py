"""Classifiers with one label, small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, Qwen2Config


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
