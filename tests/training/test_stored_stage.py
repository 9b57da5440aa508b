"""Stages whose rows are kept on the disk train what they train from rows in memory, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.toy import write_pairs
from trimtab.data import split_groups, stored_records
from trimtab.data.splits import DataSettings
from trimtab.data.stored_groups import Lazy
from trimtab.files import checksum
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.reward import RewardModelTraining
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.training import stage_method
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import run_stage
from trimtab.training.stage_method import AnyMethod

pytestmark = pytest.mark.slow

STAGE: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "evaluation_interval": 2, "learning_rate": 1e-3}


def outcome(folder: Path) -> list[Any]:
    """Weights, and what was counted and measured but the time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = [{name: x for name, x in json.loads(line).items() if name != "seconds"} for line in lines]
    return [checksum(folder / "best" / "model.safetensors"), (folder / "data.json").read_text(), metrics]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (SFT, SFTSettings(**STAGE)),
        (DPO, DPOSettings(**STAGE, precision="float32")),
        (DPO, DPOSettings(**STAGE, precision="float32", loss="kto")),
        (RewardModelTraining, RewardModelSettings(**STAGE)),
    ],
    ids=["sft", "dpo", "kto", "reward"],
)
def test_stages_from_rows_on_the_disk(
    method: AnyMethod, settings: TrainingSettings, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_pairs(tmp_path / "pairs.jsonl", 24)
    data = DataSettings(train=str(rows), max_length=200, validation_rows=5)
    run_stage("stage", method, settings, data, str(toy_model), tmp_path / "memory")
    assert not (tmp_path / "memory" / "prepared").exists()
    monkeypatch.setattr(stored_records, "LARGE", 10)
    for module in (stored_records, split_groups):
        monkeypatch.setattr(module, "BATCH", 7)
        monkeypatch.setattr(module, "processes", lambda: 2)
    lazy: list[bool] = []
    made = stage_method.ModelMethod.__init__

    def watched(self: Any, settings: Any, context: Any) -> None:
        lazy.extend(isinstance(groups, Lazy) for groups in (context.train, context.validation))
        made(self, settings, context)

    monkeypatch.setattr(stage_method.ModelMethod, "__init__", watched)
    for out, cache in (("disk", None), ("first", tmp_path / "cache"), ("second", tmp_path / "cache")):
        run_stage("stage", method, settings, data, str(toy_model), tmp_path / out, cache=cache)
        assert outcome(tmp_path / out) == outcome(tmp_path / "memory")
    assert lazy == [True] * 6
    assert (tmp_path / "disk" / "prepared").is_dir()
    assert len(list((tmp_path / "cache").glob("tokens-*"))) == 2
