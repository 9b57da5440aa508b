"""TRL's DPOTrainer and ours, side by side on the same pairs: loss, rewards, gradient norm and weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.toy import write_model, write_plain_pairs
from trimtab.data.splits import DataSettings
from trimtab.training.dpo import DPO, DPOSettings
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

trl = pytest.importorskip("trl")
STEPS = 4
PAIRS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a template, so that both join prompt and completion as they are and append eos."""
    folder = write_model(tmp_path_factory.mktemp("trl") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def theirs(model: Path, pairs: Path, out: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    from datasets import load_dataset

    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=trl.DPOConfig(
            output_dir=str(out),
            per_device_train_batch_size=PAIRS,  # every step is the whole data set: no order to match
            max_steps=STEPS,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            beta=0.3,
            logging_steps=1,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            optim="adamw_torch",
            weight_decay=0.0,
            max_grad_norm=1.0,
            dataloader_drop_last=False,
        ),
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=load_dataset("json", data_files=str(pairs), split="train", cache_dir=str(out / "cache")),
    )
    trainer.train()
    logs = [row for row in trainer.state.log_history if "rewards/margins" in row]
    return logs, {name: p.detach() for name, p in trainer.model.named_parameters()}


def ours(model: Path, pairs: Path, out: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    settings = DPOSettings(
        learning_rate=1e-3,
        schedule="constant",
        warmup_steps=0,
        beta=0.3,
        batch_size=2,
        accumulation=3,
        token_budget=40,
        max_steps=STEPS,
        logging_interval=1,
        precision="float32",
    )
    # No validation data: the last weights are the ones kept.
    best = run_stage("dpo", DPO, settings, DataSettings(train=str(pairs)), str(model), out)
    trained = AutoModelForCausalLM.from_pretrained(best, dtype=torch.float32)
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
    return rows, {name: p.detach() for name, p in trained.named_parameters()}


def test_dpo_steps_equal_trl(model: Path, tmp_path: Path) -> None:
    pairs = write_plain_pairs(tmp_path / "pairs.jsonl", PAIRS)
    their_rows, their_weights = theirs(model, pairs, tmp_path / "trl")
    our_rows, our_weights = ours(model, pairs, tmp_path / "trimtab")
    assert len(our_rows) == len(their_rows) == STEPS
    assert our_rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "step 0"
    for mine, other in zip(our_rows, their_rows, strict=True):
        for key in ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert mine[key] == pytest.approx(other[key], abs=1e-4, rel=1e-4), (mine["step"], key)
        for key in ("logps/chosen", "logps/rejected"):
            assert mine[key] == pytest.approx(other[key], rel=1e-4), (mine["step"], key)
    start = dict(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).named_parameters())
    for name, weight in their_weights.items():
        moved = (weight - start[name]).norm()
        # Adam turns rounding noise of zero gradients into full steps: the key biases' gradient is 0.
        if not name.endswith("k_proj.bias"):
            assert (our_weights[name] - weight).norm() <= 1e-2 * moved, name
