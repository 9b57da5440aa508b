"""Preference stages from rows to a folder, where the loss decides what a row and the best checkpoint are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.models.settings import LoraSettings
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

STAGE: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, "precision": "float32"}


def run(model: Path, rows: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """done.json of the stage."""
    data = DataSettings(train=str(rows), max_length=200, validation_rows=4)
    run_stage("dpo", DPO, DPOSettings(**STAGE | settings), data, str(model), out)
    done: dict[str, Any] = json.loads((out / "done.json").read_text())
    return done


def test_kto_trains_an_adapter_on_labels_alone(
    toy_model: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """At step 0 the loss is 1 − σ(0) = ½ of every completion, its rewards and z₀ are 0."""
    rows = write_jsonl([{"prompt": f"Say {i // 2}", "completion": "yes", "label": i % 2 == 0} for i in range(12)])
    done = run(toy_model, rows, tmp_path / "out", loss="kto", lora=LoraSettings(rank=2))
    assert done["best_metric"] == "loss"
    first = read_metrics(tmp_path / "out" / "metrics.jsonl")[0]
    assert first["eval_loss"] == pytest.approx(0.5, abs=1e-6)
    assert first["eval_rewards/chosen"] == first["eval_rewards/rejected"] == pytest.approx(0, abs=1e-6)


def test_imitation_alone_is_judged_by_its_loss(toy_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    assert run(toy_model, toy_pairs, tmp_path / "out", loss="sft")["best_metric"] == "loss"


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": {"dpo": float("nan")}},
        {"loss": {"dpo": 1.0, "sft": -0.1}},
        {"loss": {"dpo": 0.0}},
        {"loss": "kto", "loss_options": {"desirable_weight": float("inf")}},
    ],
)
def test_weights_that_make_no_loss(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="finite"):
        DPOSettings(**settings)


def test_a_run_that_took_no_step_is_not_done(
    toy_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = DPO.loss
    monkeypatch.setattr(DPO, "loss", lambda *args, **facts: (loss(*args, **facts)[0] * float("nan"), {}))
    with pytest.raises(TrimtabError, match=r"2 steps were not taken \(.*\), all there are"):
        run(toy_model, toy_pairs, tmp_path / "out")
    assert not (tmp_path / "out" / "done.json").exists()
    assert (tmp_path / "out" / "best" / "model.safetensors").is_file()
