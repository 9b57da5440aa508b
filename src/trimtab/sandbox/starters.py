"""The two starter models, remade: `python -m trimtab.sandbox.starters OUT`, about half an hour on 2 cores.

`world` learns the facts from random weights on short true answers. `base` is `world` taught further on
completions in all manners, and is left in a base model's flavour: its eos is <|endoftext|>, though its
template ends turns with <|im_end|>. `instruct`, the opponent, is `base` taught further on mostly good
completions. All see training tasks only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from trimtab.data.records import Record
from trimtab.data.splits import DataSettings
from trimtab.data.tokenizer import save_tokenizer
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.folder import save_folder
from trimtab.sandbox.generate import BASE_MIXTURE, INSTRUCT_MIXTURE, preference_data, pretraining_records
from trimtab.sandbox.manners import Manner
from trimtab.sandbox.places import starter as starter
from trimtab.training.stage import run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 1792
CONFIG = Qwen2Config(
    vocab_size=VOCABULARY,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=1,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    bos_token_id=None,
)
# Short and true: nothing to read but the facts and how answers follow from them.
WORLD_MIXTURE: dict[Manner, float] = {"direct": 0.5, "structured": 0.5}
WORLD_ROWS, BASE_ROWS, INSTRUCT_ROWS = 40_000, 20_000, 15_000
WORLD_EPOCHS = 3


def make_tokenizer(records: list[Record]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the world's texts with Qwen's special tokens, in a base model's flavour."""
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(split)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = ["user\n", "assistant\n", "system\n"] * 1000
    texts = [str(text) for record in records for text in (record.prompt, *record.completions)]
    bpe.train_from_iterator(texts + roles, trainer)
    bpe.normalizer, bpe.pre_tokenizer = _as_qwen2_splits()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START, END],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _as_qwen2_splits() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """What transformers 5 puts in place of a tokenizer.json's own splitting wherever the model is a Qwen2. On the
    world's texts both give the same tokens; the file says it, so that every reader reads the same."""
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return normalizers.NFC(), pre_tokenizers.Sequence([split, whole])


def write_rows(path: Path, records: list[Record]) -> None:
    """Writes prompts with their first completion as JSONL."""
    rows = ({"prompt": r.prompt, "completion": r.completions[0]} for r in records)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def teach(
    name: str,
    model: Path,
    mixture: Mapping[Manner, float],
    rows: int,
    learning_rate: float,
    out: Path,
    epochs: float = 1.0,
) -> Path:
    data = out / f"{name}.jsonl"
    write_rows(data, pretraining_records(rows, seed=len(name), mixture=mixture))
    settings = SFTSettings(
        learning_rate=learning_rate,
        batch_size=16,
        epochs=epochs,
        schedule="cosine",
        warmup_steps=100,
        weight_decay=0.1,
        adam_betas=(0.9, 0.98),
        token_budget=8192,
        logging_interval=20,
        evaluation_interval=500,
    )
    inputs = DataSettings(train=str(data), validation_rows=500, max_length=384)
    return run_stage(name, SFT, settings, inputs, str(model), out / name)


def ship(model: Path, target: Path, base_flavour: bool) -> None:
    """Writes the weights in bf16; a base model says that it ends with <|endoftext|>."""
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    if base_flavour:
        tokenizer.eos_token = END_OF_TEXT
        loaded.config.eos_token_id = loaded.generation_config.eos_token_id = tokenizer.eos_token_id
    save_folder(loaded, target, str(model))
    save_tokenizer(tokenizer, target)


def main(out: Path) -> None:
    """Trains both and writes them to `out/starters`."""
    out.mkdir(parents=True, exist_ok=True)
    texts = pretraining_records(20_000, 0, BASE_MIXTURE) + preference_data("train", 3000, 0)
    tokenizer = make_tokenizer(texts)
    torch.manual_seed(0)
    empty = out / "random"
    if not empty.exists():
        Qwen2ForCausalLM(CONFIG).save_pretrained(empty)
        tokenizer.save_pretrained(empty)
    world = teach("world", empty, WORLD_MIXTURE, WORLD_ROWS, 2e-3, out, WORLD_EPOCHS)
    base = teach("base", world, BASE_MIXTURE, BASE_ROWS, 6e-4, out)
    instruct = teach("instruct", base, INSTRUCT_MIXTURE, INSTRUCT_ROWS, 4e-4, out)
    ship(base, out / "starters" / "base", base_flavour=True)
    ship(instruct, out / "starters" / "instruct", base_flavour=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
