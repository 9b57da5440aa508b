"""Distillation as a stage: what is trained on, the divergence read off packed batches, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from training.toy import plain_accelerator, write_model, write_pairs
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.losses.distillation import generalised_jsd
from trimtab.methods.distillation import Distillation
from trimtab.methods.distillation_settings import DistillationSettings
from trimtab.models.loading import load_policy
from trimtab.rollout.sampler import Sampling
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage
from trimtab.training.stage_method import TrainingContext

GROUPS = [CompletionGroup((3, 40 + i), ((50 + i, 60, 61 + i),), index=i) for i in range(12)]
SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student and a teacher of the same tokens; the teacher's embeddings have 8 more rows, as larger models'
    have."""
    student = write_model(tmp_path_factory.mktemp("student"))
    teacher = write_model(tmp_path_factory.mktemp("teacher"))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(teacher)
    for weight in model.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    model.resize_token_embeddings(model.config.vocab_size + 8, mean_resizing=False)
    model.save_pretrained(teacher)
    return student, teacher


def method_of(models: tuple[Path, Path], folder: Path, **given: Any) -> Distillation:
    settings = DistillationSettings(teacher=str(models[1]), sampling=SHORT, precision="float32", **given)
    policy = load_policy(str(models[0]), settings, 0)
    chat = SimpleNamespace(tokenizer=load_tokenizer(str(models[0])), stop_tokens=[2], end_of_turn=2)
    return Distillation(
        settings, TrainingContext(policy, GROUPS, GROUPS[:4], settings, plain_accelerator(), folder, chat)
    )


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_divergence_of_a_packed_batch_is_that_of_plain_logits(
    beta: float, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """One row at a time through transformers, over the tokens that both models have."""
    method = method_of(models, tmp_path, beta=beta)
    batch = pack(GROUPS[:5])
    with torch.no_grad():
        loss, _ = method.loss(method.context.policy, batch, 2.0)
    total = 0.0
    for group in GROUPS[:5]:
        row = torch.tensor([[*group.prompt, *group.completions[0]]])
        logps = []
        for place in models:
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(row).logits[0, len(group.prompt) - 1 : -1, : method.context.policy.vocabulary]
            logps.append(torch.log_softmax(logits.double(), -1))
        total += float(generalised_jsd(*logps, beta).sum())
    assert float(loss) == pytest.approx(total / 2, rel=1e-5)
    assert total > 0.1


def test_the_share_of_own_answers(models: tuple[Path, Path], tmp_path: Path) -> None:
    """None, all, or by a draw for each prompt that a step repeats; the others keep the data's completion."""
    none, every = (method_of(models, tmp_path, own_share=share) for share in (0.0, 1.0))
    assert list(none.prepare(GROUPS, 0).groups) == GROUPS
    step = every.prepare(GROUPS, 0)
    assert step.metrics["own_share"] == (12.0, 12.0)
    assert all(new.completions != old.completions for new, old in zip(step.groups, GROUPS, strict=True))
    assert all(new.prompt == old.prompt for new, old in zip(step.groups, GROUPS, strict=True))
    assert step.total == sum(len(group.completions[0]) for group in step.groups)
    some = method_of(models, tmp_path, own_share=0.5)
    first = some.prepare(GROUPS, 3)
    own = sum(new.completions != old.completions for new, old in zip(first.groups, GROUPS, strict=True))
    assert first.metrics["own_share"] == (float(own), 12.0)
    assert 0 < own < 12
    assert list(some.prepare(GROUPS, 3).groups) == list(first.groups)
    assert list(some.prepare(GROUPS, 4).groups) != list(first.groups)


def test_a_stage_comes_nearer_to_its_teacher(models: tuple[Path, Path], tmp_path: Path) -> None:
    """On the data's completions and on its own answers; with another teacher it is another stage."""
    rows = DataSettings(train=str(write_pairs(tmp_path / "rows.jsonl", 60)), max_length=200, validation_rows=8)
    settings = DistillationSettings(
        teacher=str(models[1]), sampling=SHORT, precision="float32", learning_rate=3e-3, batch_size=8,
        max_steps=12, warmup_steps=0, evaluation_interval=6, validation_prompts=4,
    )  # fmt: skip
    out = tmp_path / "out"
    run_stage("distillation", Distillation, settings, rows, str(models[0]), out)
    rows_before = read_metrics(out / "metrics.jsonl")
    found = [row for row in rows_before if "eval_loss" in row]
    assert [row["step"] for row in found] == [0, 6, 12]
    for name in ("eval_divergence", "eval_own/divergence", "eval_loss"):
        assert found[-1][name] < 0.8 * found[0][name], name
    for row in found:
        assert row["eval_loss"] == pytest.approx((row["eval_divergence"] + row["eval_own/divergence"]) / 2)
    assert "teacher" in json.loads((out / "stage.json").read_text())
    moved = shutil.copytree(models[1], tmp_path / "moved")
    run_stage(
        "distillation", Distillation, settings.model_copy(update={"teacher": str(moved)}), rows, str(models[0]), out
    )
    assert len(read_metrics(out / "metrics.jsonl")) == len(rows_before), (
        "the same teacher elsewhere is the same stage"
    )
    own = settings.model_copy(update={"teacher": str(models[0])})
    with pytest.raises(TrimtabError, match="teacher"):
        run_stage("distillation", Distillation, own, rows, str(models[0]), out)


def test_what_cannot_teach_is_refused_before_training(models: tuple[Path, Path], tmp_path: Path) -> None:
    chat = ChatFormat(load_tokenizer(str(models[0])), DataSettings(train="rows.jsonl"))
    with pytest.raises(TrimtabError, match="no teacher"):
        Distillation.check_needs(DistillationSettings(), chat)
    with pytest.raises(TrimtabError, match="no such folder"):
        Distillation.check_needs(DistillationSettings(teacher=str(tmp_path / "nowhere")), chat)
    other = write_model(tmp_path / "other")
    file = other / "tokenizer.json"
    value = json.loads(file.read_text())
    vocabulary = value["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(value))
    with pytest.raises(TrimtabError, match=r"2 of \d+ differ"):
        Distillation.check_needs(DistillationSettings(teacher=str(other)), chat)
