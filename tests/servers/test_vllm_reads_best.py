"""vLLM reads best/ as transformers does: the same log-probabilities, the same tokens, and it stops by itself."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from servers.vllm_reads import read_by_vllm
from training.layouts4 import LAYOUTS, train_to_stop, write_layout
from training.stranger import ROW, read

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vllm_reads_what_was_saved(layout: str, tmp_path: Path) -> None:
    start = write_layout(tmp_path / "start", layout)
    best = train_to_stop(start, tmp_path / "sft")
    ours = read(str(best))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs = pool.apply(read_by_vllm, (str(best),))
    assert theirs["ids"] == ours["ids"]
    logps = ours["logits"].float().log_softmax(-1)[torch.arange(len(ROW) - 1), torch.tensor(ROW[1:])]
    assert float((torch.tensor(theirs["logps"]) - logps).abs().max()) <= 1e-4
    assert theirs["finish_reason"] == "stop", "by itself, with its defaults"
    assert theirs["said"] == ours["said"]
