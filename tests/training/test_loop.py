"""The loop: exact accumulation, order of the data, schedule, best checkpoint, early stopping."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
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
from trimtab.losses.table import LOSSES
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.policy import Policy
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.schedule import (
    TrainingSettings,
    data_order,
    groups_of_step,
    learning_rate_factor,
    total_steps,
)
from trimtab.training.stage_method import TrainingContext
from trimtab.training.step import Step

UNEVEN = [
    CompletionGroup(
        tuple(range(3, 4 + i)),
        (tuple(range(5, 7 + 3 * i)), tuple(range(9, 11 + (i * 5) % 7))),
        index=i,
        labels=(True, i % 3 == 0),
        scores=(1 - i / 20, i / 30),
    )
    for i in range(8)
]
ASKED = [
    replace(
        group,
        completions=(group.completions[0],) * 2 + (group.completions[1],) * 2,
        prompt_suffixes=((), (11, *range(20, 20 + i % 3)), (11, 30), ()),
        labels=None,
    )
    for i, group in enumerate(UNEVEN)
]
"""The same as rows under length instructions."""


def prepared(policy: Policy, groups: list[CompletionGroup], settings: Any, folder: Path) -> TrainingContext:
    return TrainingContext(policy, groups, groups[:3], settings, plain_accelerator(), folder / "cache")


@pytest.mark.parametrize(
    "kind",
    [
        "sft tokens",
        "sft sequences",
        "sft countdown",
        *(f"preference {name}" for name in [*LOSSES, "sum", "rc_sum"]),
    ],
)
def test_accumulation_gives_the_gradient_of_one_batch(kind: str, tmp_path: Path) -> None:
    """8×1, 4×2 and 1×8 groups of uneven length, in one pass or many: the same step."""
    start = make("qwen2")
    results = []
    for batch_size, accumulation, budget in [(8, 1, 10_000), (4, 2, 10_000), (1, 8, 10_000), (8, 1, 40), (2, 4, 1)]:
        policy = Policy(copy.deepcopy(start))
        shared: Any = {
            "batch_size": batch_size,
            "accumulation": accumulation,
            "token_budget": budget,
            "learning_rate": 1e-3,
            "max_steps": 1,
            "warmup_steps": 0,
        }
        folder = tmp_path / f"{batch_size}-{accumulation}-{budget}"
        family, _, name = kind.partition(" ")
        groups = ASKED if name.startswith("rc_") else UNEVEN
        if family == "preference":
            sums = {"sum": {"dpo": 1.0, "sft": 0.3}, "rc_sum": {"rc_dpo": 1.0, "ld_dpo": 0.5, "sft": 0.3}}
            loss: Any = sums.get(name, name)
            settings: Any = DPOSettings(beta=0.7, loss=loss, **shared)
            ready = prepared(policy, groups, settings, folder)
            method: Any = DPO(settings, ready)
            with torch.no_grad():  # move off the reference, where chosen and rejected pull alike
                policy.model.model.embed_tokens.weight += 0.05
        else:
            counted = name == "countdown"  # with slack: each step draws what its groups count down from
            if counted:
                shared |= {"length_encoding": {"slack": 1.5}}
            settings = SFTSettings(normalisation="tokens" if counted else name, **shared)
            ready = prepared(policy, groups, settings, folder)
            method = SFT(settings, ready)
        loop = Loop(policy, method, method.train, settings, folder, ready.accelerator, lambda path: None)
        norms: list[dict[str, Tensor]] = []
        clip = loop.accelerator.clip_grad_norm_

        def keep(
            parameters: Any, limit: float, norms: Any = norms, clip: Any = clip, policy: Policy = policy
        ) -> Any:
            norms.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
            return clip(parameters, limit)

        loop.accelerator.clip_grad_norm_ = keep  # type: ignore[method-assign]
        metrics, tokens = loop.train_step(0)
        assert tokens == sum(group.packed_length for group in groups)
        results.append((metrics, norms[0]))
    first_metrics, first = results[0]
    for metrics, grads in results[1:]:
        assert metrics["loss"] == pytest.approx(first_metrics["loss"], rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(first_metrics["grad_norm"], rel=1e-4)
        for name, g in first.items():
            noise = 1e-6 if name.endswith("k_proj.bias") else 1e-8
            assert (grads[name] - g).norm() <= 1e-5 * g.norm() + noise, name
    if family == "preference":
        for name, value in first_metrics.items():
            for metrics, _ in results[1:]:
                assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


AT_THE_REFERENCE = {
    "dpo": math.log(2), "ranking": math.log(2), "hinge": 1.0, "ipo": 1.0, "sppo": 2.0, "kto": 0.5, "apo_zero": 1.0
}  # fmt: skip
"""At β = ½ and ρ = 0. IPO and SPPO: targets of ±1, squared."""


@pytest.mark.parametrize("loss", AT_THE_REFERENCE)
def test_a_step_of_equal_policies_has_the_losses_value(loss: str, tmp_path: Path) -> None:
    """The mean over what the step has of what there is a loss of, in several uneven passes."""
    policy = Policy(make("qwen2"))
    settings = DPOSettings(learning_rate=1e-3, loss=loss, beta=0.5, batch_size=8, max_steps=1, token_budget=40)
    ready = prepared(policy, UNEVEN, settings, tmp_path)
    method: Any = DPO(settings, ready)
    loop = Loop(policy, method, method.train, settings, tmp_path, ready.accelerator, lambda path: None)
    assert loop.train_step(0)[0]["loss"] == pytest.approx(AT_THE_REFERENCE[loss], abs=1e-5)


def test_every_row_once_an_epoch_and_none_left_out() -> None:
    """10 rows, 4 a step: five steps are exactly two epochs."""
    groups = [CompletionGroup((1,), ((2,),), index=i) for i in range(10)]
    seen = [g.index for step in range(5) for g in groups_of_step(groups, step, 4, seed=3)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert seen[:10] == data_order(10, 3, 0).tolist()
    assert [g.index for g in groups_of_step(groups, 0, 25, seed=3)][:10] == seen[:10]


def test_steps_are_optimizer_steps() -> None:
    """100 rows, 4 × 2 a step, 2 epochs: 25 steps; 3 epochs of 7 rows by 2: 10.5, so 11."""
    assert total_steps(TrainingSettings(learning_rate=1, batch_size=4, accumulation=2, epochs=2), 100) == 25
    assert total_steps(TrainingSettings(learning_rate=1, batch_size=2, epochs=3), 7) == 11
    assert total_steps(TrainingSettings(learning_rate=1, max_steps=5), 10**6) == 5


def test_schedule_by_hand() -> None:
    """Warmup of 3: 1/4, 2/4, 3/4, then the peak. Linear over the 4 steps left: 1, 3/4, 1/2, 1/4."""
    settings = TrainingSettings(learning_rate=1, warmup_steps=3)
    assert [learning_rate_factor(settings, s, 7) for s in range(7)] == [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]
    cosine = TrainingSettings(learning_rate=1, warmup_steps=0, schedule="cosine")
    assert learning_rate_factor(cosine, 5, 10) == pytest.approx(0.5)
    assert learning_rate_factor(cosine, 0, 10) == 1
    constant = TrainingSettings(learning_rate=1, warmup_steps=1, schedule="constant")
    assert [learning_rate_factor(constant, s, 4) for s in range(4)] == [0.5, 1, 1, 1]


class Scripted:
    """A method whose validation values are given: the loop's decisions can be worked out by hand."""

    best_metric = "score"
    best_is = "highest"
    steps_per_batch, rates, runs_policy = 1, MappingProxyType({}), False

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def prepare(self, groups: Any, step: int) -> Step:
        return Step(groups, float(len(groups)), self.loss)

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Any]:
        return sft(policy(batch).logps, total), {}

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        return {"score": next(self.values)}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        return


def scripted(values: list[float], folder: Path, **settings: Any) -> tuple[Any, Path]:
    policy = Policy(make("qwen2"))
    chosen = TrainingSettings(
        **{"learning_rate": 1e-3, "batch_size": 2, "max_steps": 6, "evaluation_interval": 1} | settings
    )
    loop = Loop(
        policy,
        Scripted(values),  # type: ignore[arg-type]
        UNEVEN,
        chosen,
        folder,
        plain_accelerator(),
        lambda out: (out / "step").write_text(str(loop.state.step)) and None,
    )
    finished = loop.run()
    return finished, folder


def test_the_best_checkpoint_is_kept_and_ties_go_to_the_earliest(tmp_path: Path) -> None:
    finished, folder = scripted([0.1, 0.5, 0.7, 0.2, 0.7, 0.3, 0.6], tmp_path)
    assert (finished.best_step, finished.best, finished.stopped_early) == (2, 0.7, False)
    assert (folder / "best" / "step").read_text() == "2"


def test_lowest_can_be_best(tmp_path: Path) -> None:
    finished, _ = scripted([3, 2, 1, 2, 3, 4, 5], tmp_path, best_metric="score", best_is="lowest")
    assert finished.best_step == 2


def test_the_last_weights_can_be_kept(tmp_path: Path) -> None:
    finished, folder = scripted(
        [0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.2], tmp_path, best_metric="step", best_is="highest"
    )
    assert (finished.best_step, finished.best) == (6, 6.0)
    assert (folder / "best" / "step").read_text() == "6"


def test_early_stopping_counts_optimizer_steps_since_the_best(tmp_path: Path) -> None:
    """Best at step 1, patience 3: stops at step 4, and step 6 never comes."""
    finished, folder = scripted([0.1, 0.9, 0.2, 0.3, 0.4, 0.95, 0.99], tmp_path, patience=3)
    assert finished.stopped_early
    assert (finished.step, finished.best_step) == (4, 1)
    assert max(row["step"] for row in read_metrics(folder / "metrics.jsonl")) == 4


def test_an_unknown_best_metric_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match="eval_score"):
        scripted([1.0] * 9, tmp_path, best_metric="nonsense", best_is="highest")


def test_nan_never_becomes_the_best(tmp_path: Path) -> None:
    finished, _ = scripted([0.1, math.nan, 0.2, math.inf, 0.1, 0.1, 0.1], tmp_path)
    assert finished.best_step == 2
    rows = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in rows
    assert json.loads(rows.splitlines()[1])["step"] == 1


def test_bf16_master_weights_are_refused(tmp_path: Path) -> None:
    policy = Policy(make("qwen2").to(torch.bfloat16))
    with pytest.raises(TrimtabError, match="float32"):
        Loop(
            policy,
            Scripted([]),  # type: ignore[arg-type]
            UNEVEN,
            TrainingSettings(learning_rate=1),
            tmp_path,
            plain_accelerator(),
            lambda out: None,
        )
