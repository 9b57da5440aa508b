"""Fixtures that several rooms share: the real data beside the repository, and models small enough to train."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from commands import Commands

SHARED = Path(os.environ.get("TRIMTAB_SHARED") or Path(__file__).resolve().parents[2] / "shared")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>")
"""Of tokenizers made here: ids 0, 1 and 2."""


def pytest_configure() -> None:
    """Signals as in a terminal: under nohup, or behind a shell's &, some are ignored, and tests send them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data, models and tokenizers. Without them: a skip, and in continuous integration a failure."""
    if not (SHARED / "data").is_dir():
        reason = f"no shared data in {SHARED}: set TRIMTAB_SHARED"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return SHARED


@pytest.fixture(scope="session")
def qwen_tokenizer_dir(shared_data: Path) -> Path:
    """Qwen2.5's tokenizer in the Instruct flavour: eos <|im_end|>, pad <|endoftext|>."""
    return shared_data / "tokenizers" / "qwen2.5"


@pytest.fixture(scope="session")
def bpe30k_dir(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "bpe30k"


def byte_tokenizer(
    template: str | None = CHATML,
    special: tuple[str, ...] = CHATML_TOKENS,
    writes_bos: str | None = None,
    **names: Any,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 entries; ids of `special` count from 0. writes_bos: put before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat there"] * 4, trainer)
    if writes_bos:
        pair = [(writes_bos, special.index(writes_bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{writes_bos} $A", special_tokens=pair)
    names = names or {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = template
    return fast


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return byte_tokenizer


@pytest.fixture
def tiny_model_dir(tmp_path: Path) -> Callable[..., Path]:
    """make(name="tiny", seed=0, **config): a folder with a random Qwen2 and a ChatML tokenizer.

    The tokenizer is bpe30k where there is one, so that real rows are of ordinary length.
    """

    def make(name: str = "tiny", seed: int = 0, **config: Any) -> Path:
        bpe30k = SHARED / "tokenizers" / "bpe30k"
        tokenizer = AutoTokenizer.from_pretrained(bpe30k) if bpe30k.is_dir() else byte_tokenizer()
        shape = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Qwen2ForCausalLM(Qwen2Config(**(shape | config)))
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs `trimtab` in processes of its own that need not import anything first."""
    every = Commands(tmp_path_factory.mktemp("printed"))
    yield every
    every.close()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """write_jsonl(rows, name="rows.jsonl"): rows are objects, or lines as they stand."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write
