"""TRL's trainers and ours, side by side: loss, rewards, gradient norm and weights, step by step.

Here on a toy model, whose weights are compared too, and with trimtab broken in many ways, each of which must show;
test_trl_hundred_steps.py does the same on real pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from training import real_runs, trl_runs
from training.real_runs import Curve, Given, Plan, World, given_completions
from training.toy import write_model, write_plain_pairs
from trimtab.data.groups import CompletionGroup, PackedBatch, cut_into_passes, pack
from trimtab.losses.sft import sft
from trimtab.methods.sft import SFT
from trimtab.training import gradient, loop

PAIRS = 6
PLANS = {
    "dpo": Plan(6, 4, PAIRS, 1e-3, 2, 1.5, beta=0.3, token_budget=40),
    "sft": Plan(6, 4, PAIRS, 1e-3, 2, 1.5, token_budget=40, micro_batches=3),
    "rloo": Plan(6, 4, PAIRS, 1e-3, 2, 1.5, beta=0.3, token_budget=60),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Without a template, so that both join prompt and completion as they are and append eos."""
    folder = tmp_path_factory.mktemp("trl")
    model = write_model(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    return World(model, write_plain_pairs(folder / "pairs.jsonl", PAIRS), 200)


@pytest.fixture(scope="module")
def given(world: World, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return given_completions(world, tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def theirs(world: World, given: Given, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Curve]:
    """TRL's curve of a kind, run once."""

    @cache
    def of(kind: str) -> Curve:
        more = (given,) if kind == "rloo" else ()
        return getattr(trl_runs, kind)(PLANS[kind], world, tmp_path_factory.mktemp(kind), *more)

    return of


def ours(kind: str, world: World, given: Given, out: Path, **chosen: Any) -> Curve:
    more = (given,) if kind == "rloo" else ()
    return getattr(real_runs, kind)(PLANS[kind], world, out, *more, **chosen)


@pytest.mark.parametrize("kind", PLANS)
def test_steps_equal_trl(
    kind: str, world: World, given: Given, theirs: Callable[[str], Curve], tmp_path: Path
) -> None:
    """Our steps in several passes, TRL's SFT in three micro-batches."""
    groups = {"dpo": world.groups("pair"), "sft": world.groups("first"), "rloo": given.groups}[kind]
    assert len(cut_into_passes(groups, PLANS[kind].token_budget)) > 1
    mine, other = ours(kind, world, given, tmp_path / "out"), theirs(kind)
    if kind == "dpo":
        assert mine.rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "step 0"
    trl_runs.same_all(kind, PLANS[kind], world.start(), mine, other)
    norms = [row["grad_norm"] for row in other.rows]
    assert max(norms) > PLANS[kind].max_grad_norm, "a gradient is clipped"


# ---- trimtab broken


def shifted(groups: list[CompletionGroup]) -> PackedBatch:
    """Every token predicted from one place too early."""
    batch = pack(groups)
    return replace(batch, source=(batch.source - 1).clamp(min=0))


def headless(groups: list[CompletionGroup]) -> PackedBatch:
    """The loss without the first token of a completion, as if it were the prompt's."""
    return pack(
        [CompletionGroup((*g.prompt, g.completions[0][0]), (g.completions[0][1:],), g.index) for g in groups]
    )


def mean_of_means(self: SFT, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Any, Any]:
    """Each pass by its own tokens, as some tools normalise."""
    everyone = list(self.train)
    passes = len(cut_into_passes(everyone, self.settings.token_budget))
    return sft(policy(batch).logps, batch.target.numel() * passes), {}


def decays_everything(model: torch.nn.Module, settings: Any, method: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=settings.adam_betas, eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )  # fmt: skip


BROKEN: dict[str, tuple[str, dict[str, Any], dict[tuple[Any, str], Any]]] = {
    "dpo: beta": ("dpo", {"beta": 0.31}, {}),
    "dpo: another loss": ("dpo", {"loss": "hinge"}, {}),
    "dpo: mask off by one": ("dpo", {}, {(gradient, "pack"): shifted}),
    "dpo: not clipped": ("dpo", {"max_grad_norm": 1e6}, {}),
    "dpo: no weight decay": ("dpo", {"weight_decay": 0.0}, {}),
    "dpo: norms decay": ("dpo", {}, {(loop, "make_optimizer"): decays_everything}),
    "dpo: Adam's second moment": ("dpo", {"adam_betas": (0.9, 0.99)}, {}),
    "dpo: other rows": ("dpo", {"batch_size": PAIRS - 1}, {}),
    "sft: mask off by one": ("sft", {}, {(gradient, "pack"): headless}),
    "sft: normalised by pass": ("sft", {}, {(SFT, "loss"): mean_of_means}),
    "sft: normalised by sequences": ("sft", {"normalisation": "sequences"}, {}),
    "sft: warmup": ("sft", {"warmup_steps": 1}, {}),
    "sft: schedule": ("sft", {"schedule": "cosine"}, {}),
    "rloo: KL left out": ("rloo", {"kl_coefficient": 0.0}, {}),
    "rloo: baseline with itself": ("rloo", {"objective": "mean_centred"}, {}),
    "rloo: scaled by the group": ("rloo", {"objective": "group_normalised"}, {}),
    "rloo: ratio by token": ("rloo", {"ratio": "token"}, {}),
    "rloo: not clipped ratio": ("rloo", {"clip_low": None, "clip_high": None}, {}),
    "rloo: normalised by token": ("rloo", {"normalisation": "tokens"}, {}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trimtab_is_noticed(
    name: str,
    world: World,
    given: Given,
    theirs: Callable[[str], Curve],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, chosen, patches = BROKEN[name]
    for (where, what), wrong in patches.items():
        monkeypatch.setattr(where, what, wrong)
    mine = ours(kind, world, given, tmp_path / "out", **chosen)
    with pytest.raises(AssertionError):
        trl_runs.same_all(kind, PLANS[kind], world.start(), mine, theirs(kind))
