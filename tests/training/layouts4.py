"""Model folders of three layouts as they stand on the hub: with the names of transformers 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config

from trimtab.data.splits import DataSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.starters import VOCABULARY, make_tokenizer
from trimtab.training.stage import run_stage

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LAYOUTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "qwen2": (Qwen2Config, {"rope_theta": 1e6, "rope_scaling": None}, "Qwen2Tokenizer"),
    "llama": (LlamaConfig, {"rope_theta": 5e5, "rope_scaling": LLAMA3}, "PreTrainedTokenizerFast"),
    "gemma": (
        Gemma3TextConfig,
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window": 16,
            "sliding_window_pattern": 2,
        },
        "PreTrainedTokenizerFast",
    ),
}
"""Config class, what transformers 4 calls its rotary embedding, and the tokenizer's class."""


def write_layout(folder: Path, layout: str) -> Path:
    """A random model in the words of transformers 4, in a base model's flavour: its eos ends no turn."""
    kind, names, tokenizer_class = LAYOUTS[layout]
    shape = {k: v for k, v in SHAPE.items() if k != "head_dim" or layout != "qwen2"}
    config = kind(**shape | {"hidden_size": 128 if layout == "qwen2" else 64}, **names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    _change(folder / "config.json", names | {"torch_dtype": "float32"}, ("rope_parameters", "dtype", "layer_types"))
    make_tokenizer(preference_data("train", 200, 0)).save_pretrained(folder)
    specials = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    added = {
        str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                 "special": True}
        for t, i in specials.items()
    }  # fmt: skip
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    new = {
        "tokenizer_class": tokenizer_class,
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": template,
    }
    _change(folder / "tokenizer_config.json", new, ("backend", "extra_special_tokens", "is_local"))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [0], "do_sample": False, "temperature": 0.7, "max_new_tokens": 40})
    )
    return folder


def _change(file: Path, new: dict[str, Any], gone: tuple[str, ...]) -> None:
    said = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in said.items() if k not in gone} | new))


def train_to_stop(model: Path, folder: Path) -> Path:
    """A few large steps on one short answer: the model then ends its turn. Returns best/."""
    data = folder / "rows.jsonl"
    folder.mkdir()
    rows = ({"prompt": f"What about {word}?", "completion": "Yes."} for word in ("red", "blue", "green", "grey"))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SFTSettings(learning_rate=3e-3, batch_size=4, max_steps=40, schedule="constant", warmup_steps=0)
    return run_stage(
        "sft", SFT, settings, DataSettings(train=str(data), max_length=128), str(model), folder / "run"
    )
