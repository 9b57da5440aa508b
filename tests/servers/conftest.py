"""A policy and preference rows for vLLM: its heads need a size of 64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from training.toy import VOCABULARY, write_pairs
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.starters import make_tokenizer

STOPS = [2, *range(10, VOCABULARY, 40)]
"""The template's end of turn, and a fortieth of the vocabulary: a random model then ends some samples."""


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with tied embeddings and the sandbox's tokenizer."""
    folder = tmp_path_factory.mktemp("vllm") / "model"
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    make_tokenizer(preference_data("train", 200, 0)).save_pretrained(folder)
    GenerationConfig(eos_token_id=STOPS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.jsonl", 60)
