"""LoRA in whole stages: every start begins where its reference is, resumes exactly, and exports what it learned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from commands import Commands
from training.grpo_runs import grpo
from training.test_resume import digest, rows
from trimtab.data.splits import DataSettings
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.reward import RewardModelTraining
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.settings import LoraSettings
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

LORA = LoraSettings(rank=4, alpha=8)
SHORT = {"batch_size": 4, "max_steps": 3, "learning_rate": 5e-3, "logging_interval": 1, "precision": "float32"}


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, toy_model: Path, toy_pairs: Path) -> Path:
    """A stage with an adapter; its best/ holds the merged model, and best/adapter what goes on."""
    out = tmp_path_factory.mktemp("sft") / "out"
    settings = SFTSettings(**SHORT, lora=LORA)
    return run_stage("sft", SFT, settings, data(toy_pairs), str(toy_model), out)


def data(pairs: Path) -> DataSettings:
    return DataSettings(train=str(pairs), max_length=200, validation_rows=10)


def dpo(model: Path, pairs: Path, folder: Path, lora: LoraSettings | None) -> Path:
    settings = DPOSettings(**SHORT, lora=lora, beta=0.5)
    return run_stage("dpo", DPO, settings, data(pairs), str(model), folder / "out", cache=folder.parent / "cache")


@pytest.mark.parametrize("start", ["full", "new", "continued", "cached"])
def test_dpo_begins_at_its_reference(start: str, tmp_path: Path, sft: Path, toy_pairs: Path) -> None:
    """Loss ln 2, rewards 0: a new adapter's reference is the model, a continued one's the adapter as it was."""
    model = sft / "adapter" if start == "continued" else sft
    if start == "cached":
        dpo(model, toy_pairs, tmp_path / "first", None)
    out = dpo(model, toy_pairs, tmp_path / start, LORA if start in ("new", "cached") else None).parent
    first, trained = read_metrics(out / "metrics.jsonl")[:2]
    for row, prefix in ((first, "eval_"), (trained, "")):
        assert row[f"{prefix}loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert abs(row[f"{prefix}rewards/chosen"]) <= 1e-4
        assert abs(row[f"{prefix}rewards/rejected"]) <= 1e-4
    assert abs(read_metrics(out / "metrics.jsonl")[-1]["eval_rewards/margins"]) > 1e-3


def test_four_bits_begin_at_their_own_reference(tmp_path: Path, sft: Path, toy_pairs: Path) -> None:
    """QLoRA: loss ln 2 and rewards 0 to the base as it reads back, whose reference is not that of float32; best/ is
    plain float32, and its adapter goes on from where it was."""
    pytest.importorskip("bitsandbytes", reason="four bits need bitsandbytes: pip install bitsandbytes")
    packed = LoraSettings(rank=4, alpha=8, quantize="nf4")
    dpo(sft, toy_pairs, tmp_path / "float", LORA)
    adapter = tmp_path / "new" / "out" / "best" / "adapter"
    for name, model, lora in (("new", sft, packed), ("cached", sft, packed), ("continued", adapter, None)):
        rows = read_metrics(dpo(model, toy_pairs, tmp_path / name, lora).parent / "metrics.jsonl")
        for row, prefix in ((rows[0], "eval_"), (rows[1], "")):
            assert row[f"{prefix}loss"] == pytest.approx(math.log(2), abs=1e-5)
            assert abs(row[f"{prefix}rewards/chosen"]) <= 1e-4
            assert abs(row[f"{prefix}rewards/rejected"]) <= 1e-4
        assert abs(rows[-1]["eval_rewards/margins"]) > 1e-3
    assert len(list((tmp_path / "cache").iterdir())) == 3, "float32; four bits, twice the same; with an adapter"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "out" / "best")
    assert {p.dtype for p in plain.parameters()} == {torch.float32}


def test_full_training_and_a_new_adapter_share_the_reference(tmp_path: Path, sft: Path, toy_pairs: Path) -> None:
    dpo(sft, toy_pairs, tmp_path / "full", None)
    before = sorted((tmp_path / "cache").iterdir())
    dpo(sft, toy_pairs, tmp_path / "new", LORA)
    assert sorted((tmp_path / "cache").iterdir()) == before


@pytest.mark.parametrize("start", ["new", "continued"])
def test_grpo_begins_at_its_reference(start: str, tmp_path: Path, sft: Path, toy_pairs: Path) -> None:
    model = sft / "adapter" if start == "continued" else sft
    ran = grpo(model, toy_pairs, tmp_path, validation=6, lora=LORA if start == "new" else None)
    assert ran.evaluations[0]["eval_kl"] == pytest.approx(0, abs=1e-4)
    assert ran.rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert abs(ran.evaluations[-1]["eval_kl"]) > 1e-3  # k1 of few samples may be negative


def test_an_adapter_without_a_tokenizer_starts_every_stage(tmp_path: Path, sft: Path, toy_pairs: Path) -> None:
    """As peft alone saves it: the base's tokenizer is used, and saved. A reward model starts from it merged."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (bare / name).write_bytes((sft / "adapter" / name).read_bytes())
    out = dpo(bare, toy_pairs, tmp_path / "dpo", None)
    assert (out / "tokenizer.json").read_bytes() == (sft / "tokenizer.json").read_bytes()
    settings = RewardModelSettings(**SHORT)
    for model, name in ((bare, "reward"), (sft, "merged")):
        run_stage("reward", RewardModelTraining, settings, data(toy_pairs), str(model), tmp_path / name)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("reward", "merged")]
    ours, theirs = ([row["loss"] for row in several if "loss" in row] for several in rows)
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_what_is_saved(sft: Path, toy_model: Path) -> None:
    """best/ is a plain model that differs from its base by rank 4; best/adapter is peft's, and agrees."""
    import peft

    plain, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (sft, toy_model))
    name = "model.layers.0.mlp.up_proj.weight"
    difference = plain.get_parameter(name) - base.get_parameter(name)
    assert torch.linalg.matrix_rank(difference, tol=1e-5) == 4
    assert torch.equal(plain.get_input_embeddings().weight, base.get_input_embeddings().weight)
    ids = torch.tensor([[5, 6, 7, 8]])
    adapted = peft.PeftModel.from_pretrained(base, sft / "adapter")
    torch.testing.assert_close(adapted(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-5)
    assert (sft / "adapter" / "tokenizer.json").is_file()
    assert json.loads((sft / "config.json").read_text()).get("architectures") == ["Qwen2ForCausalLM"]


def test_killed_and_resumed_is_bit_identical(
    tmp_path: Path, toy_model: Path, toy_pairs: Path, commands: Commands
) -> None:
    """Dropout in the adapter: a checkpoint must keep its random numbers. It holds the adapter only."""

    def run(out: Path, moment: str, count: int) -> int:
        settings = [
            "learning_rate=5e-3",
            "batch_size=4",
            "max_steps=8",
            "evaluation_interval=4",
            "logging_interval=2",
        ]
        settings += ["checkpoint_interval=3", "data.validation_rows=10", "data.max_length=200"]
        settings += ["lora={rank: 4, dropout: 0.3}"]
        options = [item for setting in settings for item in ("--set", setting)]
        words = ["sft", "--model", str(toy_model), "--data", str(toy_pairs), "--out", str(out), *options]
        return commands.run(*words, moment=moment, count=count).returncode

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, "none", 1) == 0
    assert run(killed, "step", 6) == -9
    kept = load_file(next((killed / "checkpoints").glob("step-*")) / "model.safetensors")
    assert kept
    assert all("lora_" in name for name in kept)
    assert run(killed, "none", 1) == 0
    assert digest(killed) == digest(whole)
    assert rows(killed) == rows(whole)
