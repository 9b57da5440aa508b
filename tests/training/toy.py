"""A tiny model folder and preference rows that a method can learn in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import Qwen2Config, Qwen2ForCausalLM

from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.starters import VOCABULARY, make_tokenizer

CONFIG = Qwen2Config(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    initializer_range=0.1,
)


def write_model(folder: Path) -> Path:
    torch.manual_seed(0)
    Qwen2ForCausalLM(CONFIG).save_pretrained(folder)
    make_tokenizer(preference_data("train", 200, 0)).save_pretrained(folder)
    return folder


def write_pairs(path: Path, rows: int, seed: int = 0, split: str = "train") -> Path:
    write_preferences(preference_data(split, rows, seed), path)  # type: ignore[arg-type]
    return path


def write_plain_pairs(path: Path, rows: int) -> Path:
    """Plain strings, for a tokenizer without a template."""
    rng = random.Random(0)
    words = ["red", "green", "blue", "cat", "dog", "sun", "moon", "tree"]

    def some(n: int) -> str:
        return " ".join(rng.choice(words) for _ in range(n))

    with path.open("w") as out:
        for i in range(rows):
            row = {
                "prompt": some(3 + i % 4) + ":",
                "chosen": " " + some(2 + i % 5),
                "rejected": " " + some(6 - i % 5),
            }
            out.write(json.dumps(row) + "\n")
    return path


def plain_accelerator() -> Accelerator:
    """On the CPU, in float32. Accelerate keeps one precision for a process, and a stage that another test trained
    may have left bf16, which CPUs that are fast at it take unasked."""
    AcceleratorState._reset_state()
    return Accelerator(cpu=True)
