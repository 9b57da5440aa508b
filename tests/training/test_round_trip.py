"""The first save is read back as a stranger would, before anything is spent, and changes nothing."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CodeGenConfig, JambaConfig, RwkvConfig

from training.toy import VOCABULARY, write_model
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.groups import CompletionGroup
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.methods.reward import RewardModelTraining
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models import folder as folders
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.settings import LoraSettings
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.starters import starter
from trimtab.training.round_trip import TRIAL, rehearse
from trimtab.training.stage import run_stage

GROUPS = [CompletionGroup((5, 6, 7, 8), ((9, 10, 11, 2),)), CompletionGroup((40, 41), ((42, 43, 44, 45, 2),))]
ONE_STEP = {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 2, "evaluation_interval": 1}


def run(method: Any, settings: Any, model: Path, pairs: Path, out: Path) -> Path:
    return run_stage("stage", method, settings, DataSettings(train=str(pairs), max_length=256), str(model), out)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_rounding_is_no_other_model(precision: Any, tmp_path: Path) -> None:
    """A real model that trains in bf16 differs from the stranger's float32 by 0.03 nats and is the same model."""
    pairs = tmp_path / "pairs.jsonl"
    write_preferences(preference_data("train", 30, 0), pairs)
    settings = SFTSettings(precision=precision, max_steps=2, batch_size=4, warmup_steps=0)
    best = run(SFT, settings, starter("base"), pairs, tmp_path / "out")
    assert (best / "model.safetensors").is_file()
    rewarding = RewardModelSettings(precision=precision, max_steps=2, batch_size=4, warmup_steps=0)
    assert (run(RewardModelTraining, rewarding, best, pairs, tmp_path / "reward") / "model.safetensors").is_file()


def states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]


def test_a_rehearsal_draws_nothing_and_changes_nothing(toy_model: Path, tmp_path: Path) -> None:
    policy, chat = load_policy(str(toy_model)), ChatFormat(load_tokenizer(str(toy_model)))
    policy.train()
    before = states(), chat.tokenizer.eos_token, policy.model.config.to_dict(), chat.stop_tokens
    rehearse(lambda at: SFT.save(policy, chat, at), policy, chat, GROUPS, tmp_path)
    assert (states(), chat.tokenizer.eos_token, policy.model.config.to_dict(), chat.stop_tokens) == before
    assert policy.training
    assert not (tmp_path / TRIAL).exists()


def test_families_of_their_own(toy_model: Path, tmp_path: Path) -> None:
    """RWKV's config has no pad token; a cache of Jamba's takes no row without a layer of attention; what a model
    cannot run at all is one line."""
    chat = ChatFormat(load_tokenizer(str(toy_model)))
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
    jamba = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 2}
    made = (RwkvConfig(**sizes), JambaConfig(**sizes, **jamba, mamba_d_state=4, pad_token_id=0))
    for config in made:
        policy = Policy(AutoModelForCausalLM.from_config(config))
        rehearse(lambda at, policy=policy: SFT.save(policy, chat, at), policy, chat, GROUPS, tmp_path)  # type: ignore[misc]
    config = CodeGenConfig(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, rotary_dim=4
    )  # in fours, it wants
    policy = Policy(AutoModelForCausalLM.from_config(config), "m")
    with pytest.raises(TrimtabError, match=r"^model m: transformers cannot run it: shape .*config\.json"):
        rehearse(lambda at: SFT.save(policy, chat, at), policy, chat, GROUPS, tmp_path)
    with pytest.raises(TrimtabError, match="transformers cannot generate with it: shape"):
        generate(policy.model, chat, ["red"], Decoding(max_new_tokens=2), [2])


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}, "rope_theta": 3.0}, "log-probabilities"),
        ({"intermediate_size": 96}, "it does not load"),
        ({"pad_token_id": VOCABULARY}, "does not load"),
    ],
)
def test_a_folder_that_says_something_else_is_found_before_the_first_step(
    toy_model: Path,
    toy_pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: dict[str, Any],
    said: str,
) -> None:
    right = folders.readable_by_all
    monkeypatch.setattr(folders, "readable_by_all", lambda *a: right(*a) | plant)
    with pytest.raises(TrimtabError, match=f"read without trimtab, is another model: .*{said}"):
        run(SFT, SFTSettings(**ONE_STEP), toy_model, toy_pairs, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists(), "before anything was spent"


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_the_first_trained_weights_are_read_back_too(
    toy_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraSettings | None
) -> None:
    """Weights that are saved otherwise than they were trained: at the start nothing shows, a step later it does."""
    right, calls = Policy.save, []

    def wrong(self: Policy, folder: Path) -> None:
        calls.append(folder)
        right(self, folder)
        if len(calls) > 2:  # the rehearsal, the start, and then the first trained weights
            AutoModelForCausalLM.from_pretrained(toy_model).save_pretrained(folder)

    monkeypatch.setattr(Policy, "save", wrong)
    with pytest.raises(TrimtabError, match=r"log-probabilities .*differ by up to"):
        run(SFT, SFTSettings(**ONE_STEP, lora=lora), toy_model, toy_pairs, tmp_path / "out")
    assert len(calls) == 3


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_a_reward_model_is_read_back(
    toy_model: Path, toy_pairs: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    settings = RewardModelSettings(**ONE_STEP, lora=lora)
    best = run(RewardModelTraining, settings, toy_model, toy_pairs, tmp_path / "out")
    assert json.loads((best / "config.json").read_text())["architectures"] == ["Qwen2ForSequenceClassification"]


def changed(folder: Path, name: str, **new: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | new))


@pytest.fixture
def padded_beyond(tmp_path: Path) -> Path:
    """A pad token was added to the tokenizer, and no embedding for it."""
    folder = write_model(tmp_path / "model")
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pad_token_without_an_embedding_is_not_saved_as_one(
    padded_beyond: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    best = run(SFT, SFTSettings(**ONE_STEP), padded_beyond, toy_pairs, tmp_path / "out")
    [line] = [
        line for line in json.loads((tmp_path / "out" / "done.json").read_text())["warnings"] if "[PAD]" in line
    ]
    assert "but the model has" in line
    assert AutoModelForCausalLM.from_pretrained(best).config.pad_token_id == 2
    best = run(RewardModelTraining, RewardModelSettings(**ONE_STEP), padded_beyond, toy_pairs, tmp_path / "reward")
    assert json.loads((best / "config.json").read_text())["pad_token_id"] == 0


def test_ends_that_the_model_does_not_have(toy_model: Path, tmp_path: Path) -> None:
    """Of a list those that it has; the one that ends a turn must be there."""
    policy, chat = load_policy(str(toy_model)), ChatFormat(load_tokenizer(str(toy_model)))
    policy.model.generation_config.eos_token_id = [7, VOCABULARY, -1, None]
    assert stop_tokens(policy.model, chat) == [2, 0, 7]
    policy.model.resize_token_embeddings(2)
    with pytest.raises(TrimtabError, match=r"ends with '<\|im_end\|>', token 2, but the model has 2 embeddings"):
        stop_tokens(policy.model, chat)


def test_files_are_as_open_as_the_umask_says(toy_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        best = run(SFT, SFTSettings(**ONE_STEP), toy_model, toy_pairs, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {str(f.name): stat.S_IMODE(f.stat().st_mode) for f in best.rglob("*") if f.is_file()}
    assert set(modes.values()) == {0o640}, modes
