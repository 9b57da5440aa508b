from __future__ import annotations

from pathlib import Path

import pytest

from training.grpo_runs import write_stopping_model
from training.toy import write_model, write_pairs


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def stopping_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stopping_model(tmp_path_factory.mktemp("stopping") / "model")


@pytest.fixture(scope="session")
def toy_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.jsonl", 60)
