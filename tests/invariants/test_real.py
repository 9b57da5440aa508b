"""Real data, a really trained model, the real tokenizer: the parts together, in their true shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from trimtab.data.chat import ChatFormat, TruncationSettings, load_tokenizer
from trimtab.data.records import read_records
from trimtab.data.split_groups import encode_records
from trimtab.data.splits import DataSettings
from trimtab.evaluation.perplexity import fluency
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.loading import load_policy
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

pytestmark = pytest.mark.slow


def test_sft_lowers_the_perplexity_of_a_trained_model(shared_data: Path, tmp_path: Path) -> None:
    """stories260k, which has no template, on real texts it never saw."""
    model = shared_data / "models" / "stories260k"
    texts = shared_data / "data" / "ultrafeedback"
    data = DataSettings(train=str(texts / "train.jsonl"), train_rows=200, validation=str(texts / "eval.jsonl"),
                        validation_rows=40, max_length=256)  # fmt: skip
    settings = SFTSettings(learning_rate=1e-3, batch_size=8, max_steps=25, evaluation_interval=25)
    best = run_stage("sft", SFT, settings, data, str(model), tmp_path / "sft")
    chat = ChatFormat(load_tokenizer(str(model)), data)
    records = read_records(str(texts / "eval.jsonl"))[40:80]
    held_out, _ = encode_records(records, chat, "first")
    before = fluency(load_policy(str(model)).eval(), chat, held_out, records)
    after = fluency(load_policy(str(best)).eval(), chat, held_out, records)
    assert after.perplexity < 0.9 * before.perplexity
    assert after.bits_per_byte < before.bits_per_byte


def test_dpo_on_real_pairs_starts_at_ln_2_and_falls(shared_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "bpe30k")
    config = Qwen2Config(vocab_size=30000, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = DataSettings(train=str(shared_data / "data/ultrafeedback/train.jsonl"), train_rows=48,
                        validation_rows=16, max_length=300)  # fmt: skip
    settings = DPOSettings(
        learning_rate=1e-3, batch_size=8, epochs=3, warmup_steps=2, logging_interval=1, evaluation_interval=9
    )
    run_stage("dpo", DPO, settings, data, str(tmp_path / "model"), tmp_path / "dpo")
    rows = read_metrics(tmp_path / "dpo" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    first = next(row for row in rows if "eval_loss" in row)
    assert losses[0] == pytest.approx(0.693147, abs=1e-4)
    assert first["eval_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert first["eval_rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert sum(losses[-3:]) / 3 < 0.68


def test_every_real_row_has_its_end_of_turn(shared_data: Path) -> None:
    """With the real Qwen2.5 tokenizer: a completion that was not cut ends in <|im_end|>, and only there."""
    chat = ChatFormat(
        load_tokenizer(str(shared_data / "tokenizers" / "qwen2.5")), TruncationSettings(max_length=512)
    )
    records = read_records(str(shared_data / "data" / "ultrafeedback" / "eval.jsonl"))
    groups, counts = encode_records(records, chat, "pair")
    assert counts.used + sum(counts.dropped.values()) == counts.rows == 200
    for group in groups:
        for completion, cut in zip(group.completions, group.truncated, strict=True):
            assert (completion[-1] == 151645) != cut
            assert 151645 not in completion[:-1]
            assert len(group.prompt) + len(completion) <= 512
