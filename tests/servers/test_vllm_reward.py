"""A reward model behind a real vLLM server scores as the same folder does in this process."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

from servers.vllm_server import serving
from trimtab.data.records import Message
from trimtab.rewards.base import Prompt
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.vllm_pooling import VLLMPoolingReward

pytestmark = pytest.mark.vllm

TEXTS = 100
LONGEST = 4096


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, qwen_tokenizer_dir: Path) -> Path:
    """Four layers, random, with Qwen2.5's tokenizer and template."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    tokenizer = AutoTokenizer.from_pretrained(qwen_tokenizer_dir)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LONGEST, num_labels=1,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForSequenceClassification(config)
        torch.nn.init.normal_(model.score.weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> tuple[list[Prompt], list[str]]:
    """50 real prompts, each with its chosen and its rejected answer; every fourth a conversation's last turn."""
    lines = (shared_data / "data" / "ultrafeedback" / "eval.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [row for row in map(json.loads, filter(None, lines)) if row["chosen"] and row["rejected"]]
    prompts: list[Prompt] = []
    for i, row in enumerate(rows[: TEXTS // 2]):
        turns = (Message("system", "Be brief."), Message("user", row["prompt"]))
        prompts += [turns if i % 4 == 0 else row["prompt"]] * 2
    return prompts, [text for row in rows[: TEXTS // 2] for text in (row["chosen"], row["rejected"])]


def test_the_server_scores_as_transformers_does(
    reward_model: Path, texts: tuple[list[Prompt], list[str]], tmp_path: Path
) -> None:
    """1e-3 on 100 real texts, whose scores lie far apart; then the server is gone."""
    prompts, completions = texts
    options = ("--runner", "pooling", "--max-model-len", str(LONGEST))
    with serving(reward_model, tmp_path / "server.log", *options) as address:
        found = VLLMPoolingReward(address, str(reward_model)).scored(prompts, completions)
    assert [one.reason for one in found] == [None] * TEXTS
    wanted = ClassifierReward(str(reward_model)).score(prompts, completions)
    assert np.std(wanted) > 0.3
    assert [one.score for one in found] == pytest.approx(wanted, abs=1e-3)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
