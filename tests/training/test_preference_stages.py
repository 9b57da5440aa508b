"""Losses of rows that are no pairs, in whole stages: KTO on real labels, rankings of three, sums."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from trimtab.data.groups import CompletionGroup
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.kto_point import mismatch
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

COMMON: dict[str, Any] = {
    "batch_size": 4, "max_steps": 6, "learning_rate": 3e-3, "warmup_steps": 0, "logging_interval": 1,
    "precision": "float32",
}  # fmt: skip


def run(model: Path, rows: Path, out: Path, **given: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and evaluations."""
    data = DataSettings(train=str(rows), max_length=160, min_completion_length=8, validation_rows=8)
    run_stage("dpo", DPO, DPOSettings(**COMMON | given), data, str(model), out)
    logged = read_metrics(out / "metrics.jsonl")
    return [row for row in logged if "loss" in row], [row for row in logged if "eval_loss" in row]


def test_kto_learns_real_labels(shared_data: Path, toy_model: Path, tmp_path: Path) -> None:
    """At the reference ρ = z₀ = 0, and each loss is 1 − σ(0) = ½. Desirable rewards then rise above the others."""
    rows = json.loads((shared_data / "data" / "other_formats" / "kto.json").read_text())[:40]
    (tmp_path / "kto.json").write_text(json.dumps(rows))
    trained, evaluated = run(
        toy_model, tmp_path / "kto.json", tmp_path / "out", loss="kto", epochs=6, max_steps=None
    )
    assert trained[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert evaluated[0]["eval_loss"] == pytest.approx(0.5, abs=1e-4)
    assert evaluated[0]["eval_kl"] == pytest.approx(0, abs=1e-4)
    assert max(row["kl"] for row in trained) > 0
    assert all(row["kl"] >= 0 for row in trained)
    last = trained[-8:]
    chosen = [row["rewards/chosen"] for row in last if "rewards/chosen" in row]
    rejected = [row["rewards/rejected"] for row in last if "rewards/rejected" in row]
    assert sum(chosen) / len(chosen) > sum(rejected) / len(rejected)
    assert json.loads((tmp_path / "out" / "done.json").read_text())["key"]


def test_a_ranking_of_three_starts_at_ln_6(toy_model: Path, tmp_path: Path) -> None:
    """At the reference all 3! orders are alike: −log 1/6."""
    lines = []
    for i in range(24):
        answers = [{"response": f"answer {word} {i}", "overall_score": score} for word, score in
                   (("one", 1.0), ("three", 3.0), ("two", 2.0))]  # fmt: skip
        lines.append(json.dumps({"instruction": f"question {i}", "completions": answers}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    trained, evaluated = run(toy_model, tmp_path / "rows.jsonl", tmp_path / "out", loss="ranking", beta=0.5)
    assert evaluated[0]["eval_loss"] == pytest.approx(math.log(6), abs=1e-4)
    assert evaluated[-1]["eval_loss"] < 1.5
    assert evaluated[-1]["eval_rewards/accuracies"] == 1.0
    assert trained[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_a_sum_adds_up(toy_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """At the reference: ln 2 + 0.1 · SFT's loss, which is −(mean chosen log-probability)/(mean chosen tokens)."""
    dpo, _ = run(toy_model, toy_pairs, tmp_path / "dpo", loss="dpo")
    sft, _ = run(toy_model, toy_pairs, tmp_path / "sft", loss="sft")
    both, _ = run(toy_model, toy_pairs, tmp_path / "both", loss={"dpo": 1.0, "sft": 0.1})
    assert both[0]["loss"] == pytest.approx(dpo[0]["loss"] + 0.1 * sft[0]["loss"], rel=1e-5)
    assert not list((tmp_path / "sft" / "reference").glob("*"))  # imitation needs no reference


def test_rows_that_a_loss_cannot_use(toy_model: Path, tmp_path: Path) -> None:
    (tmp_path / "single.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"q {i}", "completion": "a b c"}) for i in range(20))
    )
    for loss, message in (("kto", "without a label; KTO needs"), ("ranking", "preference training needs")):
        with pytest.raises(TrimtabError, match=message):
            run(toy_model, tmp_path / "single.jsonl", tmp_path / loss, loss=loss)


def test_mismatched_completions_are_of_another_prompt_and_no_longer_than_the_data() -> None:
    groups = [
        CompletionGroup((1, 2), ((3, 4, 5, 6),)),
        CompletionGroup((1, 2), ((7,),)),
        CompletionGroup((1, 2, 3, 4), ((8, 9), (8,))),
    ]
    found = mismatch(groups)
    assert [g.prompt for g in found] == [g.prompt for g in groups]
    assert found[0].completions == found[1].completions == ((8, 9), (8,))
    assert found[2].completions == ((3, 4),)  # six tokens are the longest row: 4 + 2
    with pytest.raises(TrimtabError, match="two different prompts"):
        mismatch(groups[:2])


def test_losses_of_different_rows_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="not all of pairs"):
        DPOSettings(loss={"dpo": 1.0, "kto": 1.0})
    assert DPOSettings(loss={"dpo": 1.0, "sft": 0.1}).weights["sft"] == 0.1
