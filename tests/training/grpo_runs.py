"""Runs of GRPO and PPO as a stage on a toy model, with reward functions from a file, and what they leave behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from training.by_hand import Call
from training.toy import VOCABULARY, write_model
from trimtab.data.splits import DataSettings
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.ppo import PPO
from trimtab.methods.ppo_settings import PPOSettings
from trimtab.rewards.base import Reward
from trimtab.rewards.function import FunctionReward, load_function
from trimtab.rollout.sampler import Sampling
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

CAP, PROMPTS, SAMPLES = 8, 4, 4
STOPS = [2, *range(10, VOCABULARY, 8)]
"""The template's end of turn, and an eighth of the vocabulary: a random model then ends most samples early."""
REWARDS = '''
import json
from pathlib import Path

HERE = Path(__file__).parent


def low(prompts, completions, completion_ids, log_metric=lambda name, value: None):
    """How many tokens are of the lower half of the vocabulary; every call is written down."""
    scores = [float(sum(token < 896 for token in ids)) for ids in completion_ids]
    log_metric("lower_half", sum(scores))
    with (HERE / "calls.jsonl").open("a") as out:
        out.write(json.dumps([[p[-1]["content"] if isinstance(p, list) else p for p in prompts],
                              completion_ids, scores]) + "\\n")
    return scores


def some(prompts, completions, completion_ids):
    """Nothing for the first sample, nor for three of the second prompt's; the same for all of the third's."""
    found = low(prompts, completions, completion_ids)
    return [None if i in (0, 4, 5, 6) else 2.0 if 8 <= i < 12 else score for i, score in enumerate(found)]


def nothing(completions):
    return [None] * len(completions)


calls = 0


def later(completions):
    """Nothing at the first call."""
    global calls
    calls += 1
    return [None if calls == 1 else float(len(c)) for c in completions]


def at_first(completions):
    """Scores at the first call and for batches; none for the four of validation later."""
    global calls
    calls += 1
    return [None if calls > 1 and len(completions) == 4 else float(len(c)) for c in completions]


def names(completions, log_extra, log_metric):
    log_extra("reward", ["mine"] * len(completions))
    log_extra("step", [99] * len(completions))
    log_metric("loss", 1e6)
    log_metric("reward", 1e6)
    return [float(len(c)) for c in completions]


def huge(completions):
    return [(1e18, -1e18, 1e308, 1.0)[i % 4] for i in range(len(completions))]


def alike(completions):
    return [0.25] * len(completions)


def rising(completions, log_extra):
    log_extra("letters", [len(c) for c in completions])
    return [float(len(c)) for c in completions]
'''


def write_stopping_model(folder: Path) -> Path:
    """The toy model with many tokens that end a turn."""
    write_model(folder)
    GenerationConfig(eos_token_id=STOPS).save_pretrained(folder)
    return folder


def as_some(scores: list[float | None]) -> list[float | None]:
    """What `some` makes of `low`'s scores."""
    return [None if i in (0, 4, 5, 6) else 2.0 if 8 <= i < 12 else score for i, score in enumerate(scores)]


@dataclass
class Ran:
    """A finished stage."""

    out: Path
    rows: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    completions: list[dict[str, Any]]
    calls: list[Call]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return weights_of(self.out / "best")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: p.detach() for name, p in loaded.named_parameters()}


def reward_named(folder: Path, name: str) -> FunctionReward:
    (folder / "rewards.py").write_text(REWARDS)
    return FunctionReward(load_function(f"{folder / 'rewards.py'}:{name}"))


def grpo(*where: Any, **given: Any) -> Ran:
    return run_method("grpo", *where, **given)


def ppo(*where: Any, **given: Any) -> Ran:
    return run_method("ppo", *where, **given)


def run_method(
    kind: str,
    model: Path,
    pairs: Path,
    folder: Path,
    name: str = "low",
    validation: int = 0,
    judge: Reward | None = None,
    **given: Any,
) -> Ran:
    """Runs a stage; without validation data the last weights are the ones kept."""
    method, settings = {"grpo": (GRPO, GRPOSettings), "ppo": (PPO, PPOSettings)}[kind]
    chosen: dict[str, Any] = {
        "learning_rate": 1e-3, "schedule": "constant", "warmup_steps": 0, "batch_size": PROMPTS, "samples": SAMPLES,
        "sampling": Sampling(max_new_tokens=CAP), "logging_interval": 1, "precision": "float32", "max_steps": 2,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    reward, out = reward_named(folder, name), folder / "out"
    rows = DataSettings(train=str(pairs), max_length=200, validation_rows=validation or None)
    run_stage(kind, method, settings(**chosen | given), rows, str(model), out, reward=reward, judge=judge)
    logged = read_metrics(out / "metrics.jsonl")
    lines = (folder / "calls.jsonl").read_text().splitlines() if (folder / "calls.jsonl").exists() else []
    return Ran(
        out,
        [row for row in logged if "loss" in row],
        [row for row in logged if "loss" not in row],
        read_metrics(out / "completions.jsonl"),
        [Call(*json.loads(line)) for line in lines],
    )
