"""Broken steps are not taken, their rows are kept, and too many of them end the run with the best weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from models.families import make
from training.toy import plain_accelerator
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.errors import TrimtabError
from trimtab.losses.sft import sft
from trimtab.models.policy import Policy
from trimtab.training.guard import ENOUGH, Guard
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.schedule import TrainingSettings
from trimtab.training.step import Step

ROWS = [CompletionGroup((3, 4 + i), ((5, 6, 7 + i),), index=i) for i in range(8)]


class Faulty:
    """SFT, but for what `spoil` does to the loss of row 5's pass."""

    best_metric, best_is = "score", "highest"
    steps_per_batch, rates, runs_policy = 1, MappingProxyType({}), False

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        self.spoil, self.evaluations = spoil, 0

    def prepare(self, groups: Any, step: int) -> Step:
        return Step(groups, float(len(groups)), self.loss)

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Any]:
        loss = sft(policy(batch).logps, total)
        return (self.spoil(loss) if any(g.index == 5 for g in batch.groups) else loss), {}

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        self.evaluations += 1
        return {"score": float(self.evaluations)}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        return


def loop(spoil: Callable[[Tensor], Tensor], folder: Path, rows: Any = ROWS, **given: Any) -> Loop:
    settings = TrainingSettings(
        **{"learning_rate": 1e-2, "batch_size": 2, "max_steps": 8, "warmup_steps": 0, "logging_interval": 1} | given
    )
    method: Any = Faulty(spoil)
    return Loop(
        Policy(make("qwen2")), method, rows, settings, folder, plain_accelerator(),
        lambda out: (out / "kept").write_text("") and None,
    )  # fmt: skip


def steep(loss: Tensor) -> Tensor:
    """√x at x = 0: a finite loss whose gradient is ∞ · 0."""
    return (loss - loss.detach()).sqrt()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda loss: loss * math.nan, "the loss is nan"),
        (lambda loss: loss * math.inf, "the loss is inf"),
        (steep, "the gradient's norm is nan"),
    ],
)
def test_a_broken_step_is_skipped_and_its_rows_are_kept(spoil: Any, reason: str, tmp_path: Path) -> None:
    """8 rows, 2 a step, 8 steps: two epochs, and so two steps with row 5. The others are taken."""
    ran = loop(spoil, tmp_path)
    taken = 0
    step = ran.optimizer.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        return step(*args, **kwargs)

    ran.optimizer.step = counted
    finished = ran.run()
    assert (finished.step, taken) == (8, 6)
    kept = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert len(kept) == 2
    assert all(row["reason"] == reason and 5 in row["rows"] and len(row["groups"]) == 2 for row in kept)
    assert kept[0]["groups"][kept[0]["rows"].index(5)] == {"prompt": [3, 9], "completions": [[5, 6, 12]]}
    assert all(torch.isfinite(p).all() for p in ran.policy.parameters())
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    assert {row["step"] for row in rows} == set(range(1, 9)) - {row["step"] for row in kept}
    assert rows[-1]["skipped_steps"] == 1  # step 8 was the second


def test_a_skipped_step_leaves_weights_and_moments_alone(tmp_path: Path) -> None:
    ran = loop(lambda loss: loss * math.nan, tmp_path, rows=[ROWS[5]], batch_size=1, max_skipped=3, max_steps=2)
    before = [p.clone() for p in ran.policy.parameters()]
    ran.train_step(0)
    assert all(torch.equal(a, b) for a, b in zip(before, ran.policy.parameters(), strict=True))
    assert not ran.optimizer.state
    assert all(p.grad is None for p in ran.policy.parameters())


def test_too_many_end_the_run_with_the_best_weights_kept(tmp_path: Path) -> None:
    ran = loop(
        lambda loss: loss * math.nan, tmp_path, rows=[ROWS[5], ROWS[5]], max_skipped=2, evaluation_interval=1
    )
    with pytest.raises(
        TrimtabError, match=r"loss is nan at step 3 \(rows 5, 5\): 3 steps.*best weights, of step 2"
    ):
        ran.run()
    assert (tmp_path / "best" / "kept").is_file()


def test_none_may_be_skipped(tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match="more than max_skipped=0"):
        loop(lambda loss: loss * math.nan, tmp_path, max_skipped=0).run()


def test_what_explodes_is_told_from_what_is_usual() -> None:
    """After ENOUGH norms around 1: 99 is taken and 101 is not; what was not taken is not remembered."""
    guard = Guard(100.0)
    for i in range(ENOUGH):
        assert guard.fault({"": 1.0}, {"": 500.0 if i == 0 else 1.0}) is None
    assert guard.fault({"": 1.0}, {"": 99.0}) is None
    before = list(guard.norms)
    assert guard.fault({"": 1.0}, {"": 101.0}) == "the gradient's norm is 101, and usually 1"
    assert guard.norms == before
    assert Guard(None).fault({"": 1.0}, {"": 1e30}) is None


def test_steps_without_a_gradient_are_no_measure() -> None:
    """GRPO's steps with equal rewards have a norm of 0."""
    guard = Guard(100.0)
    for _ in range(3 * ENOUGH):
        assert guard.fault({"": 0.0}, {"": 0.0}) is None
    assert guard.fault({"": 1.0}, {"": 5.0}) is None


def test_a_second_loss_is_named() -> None:
    assert Guard(None).fault({"": 1.0, "length_penalty": math.inf}, {"": 1.0}) == "the length_penalty loss is inf"


def test_a_resumed_run_remembers(tmp_path: Path) -> None:
    guard = Guard(100.0)
    guard.fault({"": 1.0}, {"": 2.5})
    guard.skipped = 3
    again = Guard(100.0)
    again.load_state(json.loads(json.dumps(guard.state())))
    assert (again.norms, again.skipped) == ([2.5], 3)
