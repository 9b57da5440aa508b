"""Stages on real pairs with the "29m" layout, step by step: what a run logs, its weights and its time.

The layout: 8 layers, hidden 384, intermediate 1,536, 6 heads, 2 key/value heads, vocabulary 30,000 (bpe30k's), tied
embeddings; random weights. The pairs are UltraFeedback's, their completions cut to the first words so that a step
takes tenths of a second; rows over the length limit are left out of the file, so that nobody has anything to cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from trimtab.data.chat import ChatFormat, TruncationSettings, load_tokenizer
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import read_records
from trimtab.data.split_groups import encode_records
from trimtab.data.splits import DataSettings
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.rewards.base import Reward
from trimtab.rewards.function import FunctionReward, load_function
from trimtab.rollout.logps import logps_of
from trimtab.rollout.sampler import Sample, Sampling
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

LAYOUT_29M = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
Weights = dict[str, Tensor]


def write_random_model(folder: Path, tokenizer: Path, vocabulary: int, **layout: int) -> Path:
    """A Qwen2 of random weights, seed 0, with a tokenizer's files beside it."""
    names = AutoTokenizer.from_pretrained(tokenizer)
    config = Qwen2Config(
        vocab_size=vocabulary,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=names.eos_token_id,
        pad_token_id=names.pad_token_id,
        bos_token_id=None,
        **layout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    names.save_pretrained(folder)
    return folder


def write_short_pairs(source: Path, model: Path, out: Path, limit: int, words: int | None, rows: int) -> Path:
    """The first `rows` pairs of distinct prompts, completions whole or cut to their first `words` words, that are
    then at most `limit` tokens long and dropped for no reason."""
    cut = {}
    for line in source.read_text(encoding="utf-8").split("\n"):
        row = json.loads(line) if line else {}
        if 0 < len(row.get("prompt", "")) < 6 * limit:
            sides = {name: " ".join(row[name].split(" ")[:words]) for name in ("chosen", "rejected")}
            cut.setdefault(row["prompt"], row | sides)
    chat = ChatFormat(load_tokenizer(str(model)), TruncationSettings(max_length=4096))
    every, kept = list(cut.values()), []
    _write(out, every)
    for group in encode_records(read_records(str(out)), chat, "pair")[0]:
        if len(group.prompt) + max(map(len, group.completions)) <= limit:
            kept.append(every[group.index])
    _write(out, kept[:rows])
    return out


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Plan:
    """What a run does. The schedule is one of `steps` steps; the run ends after the first `stop` of them."""

    steps: int
    stop: int
    groups: int
    """Of an optimizer step."""
    learning_rate: float
    warmup: int
    max_grad_norm: float
    weight_decay: float = 0.1
    beta: float = 0.1
    token_budget: int = 4096
    micro_batches: int = 1
    """Into which TRL cuts a step; how we cut it is the token budget's."""


@dataclass(frozen=True)
class World:
    """What both sides train, and on what."""

    model: Path
    pairs: Path
    limit: int

    def groups(self, completions: Any) -> list[CompletionGroup]:
        chat = ChatFormat(load_tokenizer(str(self.model)), TruncationSettings(max_length=self.limit))
        found, counts = encode_records(read_records(str(self.pairs)), chat, completions)
        assert counts.used == counts.rows, "no row is dropped"
        assert counts.truncated == 0, "and none is cut"
        return found

    def start(self) -> Weights:
        return weights_of(AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32))


@dataclass
class Curve:
    """What a run logged at each step, the weights after its last, and the processor's seconds of each step."""

    rows: list[dict[str, Any]]
    weights: Weights
    seconds: list[float] = field(default_factory=list)


def weights_of(model: Any) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@contextmanager
def watched() -> Iterator[Curve]:
    """Fills a curve with the weights and the times of the stage that is run inside."""
    found, step_of = Curve([], {}), Loop.train_step

    def timed(self: Loop, step: int) -> tuple[dict[str, float], int]:
        begun = time.process_time()
        out = step_of(self, step)
        found.seconds.append(time.process_time() - begun)
        loops[:] = [self]
        return out

    loops: list[Loop] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "train_step", timed)
        yield found
    found.weights = weights_of(loops[0].policy.model)


def run(name: str, method: Any, settings: Any, world: World, out: Path, reward: Reward | None = None) -> Curve:
    """A stage as the command would run it."""
    rows = DataSettings(train=str(world.pairs), max_length=world.limit)
    with watched() as found:
        run_stage(name, method, settings, rows, str(world.model), out, reward=reward)
    found.rows = [row for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
    return found


def settings_of(plan: Plan) -> dict[str, Any]:
    """Of every method. Step 0 is "the best", so that patience ends the run after `stop` steps of the schedule."""
    return {
        "learning_rate": plan.learning_rate, "schedule": "linear", "warmup_steps": plan.warmup,
        "weight_decay": plan.weight_decay, "max_grad_norm": plan.max_grad_norm, "max_steps": plan.steps,
        "batch_size": plan.groups, "token_budget": plan.token_budget, "precision": "float32", "logging_interval": 1,
        "best_metric": "step", "best_is": "lowest", "patience": plan.stop, "evaluation_interval": plan.stop,
        "checkpoint_interval": plan.steps + 1,
    }  # fmt: skip


def dpo(plan: Plan, world: World, out: Path, **chosen: Any) -> Curve:
    return run("dpo", DPO, DPOSettings(**settings_of(plan) | {"beta": plan.beta} | chosen), world, out)


def sft(plan: Plan, world: World, out: Path, **chosen: Any) -> Curve:
    return run("sft", SFT, SFTSettings(**settings_of(plan) | chosen), world, out)


# ---- given completions and rewards

SAMPLES, UPDATES, CLIP = 3, 2, 0.2
REWARD = '''
import json
from pathlib import Path

TABLE = {tuple(ids): value for ids, value in json.loads((Path(__file__).parent / "rewards.json").read_text())}


def given(prompts, completions, completion_ids, **columns):
    """What the table has for these tokens."""
    return [TABLE[tuple(ids)] for ids in completion_ids]
'''


@dataclass(frozen=True)
class Given:
    """Three completions of each prompt, and what a reward function says of any of them."""

    groups: list[CompletionGroup]
    function: Any


def given_completions(world: World, folder: Path) -> Given:
    """A row's chosen and rejected completion, and the first half of the chosen one. Rewards: a tenth of the scores
    that the data have (1 and 0 where they have none), half of it for a half."""
    groups, table = [], {}
    for pair in world.groups("pair"):
        chosen, rejected = pair.completions
        rows = (chosen, rejected, chosen[: (len(chosen) + 1) // 2])
        good, bad = pair.scores or (10.0, 0.0)
        groups.append(CompletionGroup(pair.prompt, rows, pair.index))
        table |= dict(zip(rows, (0.1 * good, 0.1 * bad, 0.05 * good), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.json").write_text(json.dumps([[list(ids), value] for ids, value in table.items()]))
    (folder / "rewards.py").write_text(REWARD)
    return Given(groups, load_function(f"{folder / 'rewards.py'}:given"))


class GivenSampler:
    """Hands out completions that are there already, with the policy's log-probabilities of them."""

    def __init__(self, policy: Any, groups: Sequence[CompletionGroup], budget: int) -> None:
        self.policy, self.budget = policy, budget
        self.table = {group.prompt: group for group in groups}

    def sample(self, prompts: Sequence[Sequence[int]], k: int, sampling: Sampling, **_: Any) -> list[list[Sample]]:
        groups = [self.table[tuple(prompt)] for prompt in prompts]
        found = logps_of(self.policy, groups, None, self.budget, self.policy.device)
        return [
            [
                Sample(tokens, tuple(logps.tolist()), tuple(logps.tolist()), "stop", 1.0)
                for tokens, logps in zip(group.completions, several, strict=True)
            ]
            for group, several in zip(groups, found, strict=True)
        ]


def rloo(plan: Plan, world: World, out: Path, given: Given, **chosen: Any) -> Curve:
    """GRPO as its default objective, with TRL's ratio of whole sequences; each batch is trained on twice."""

    class OfGiven(GRPO):
        table: ClassVar[list[CompletionGroup]] = given.groups

        def __init__(self, settings: Any, context: Any) -> None:
            super().__init__(settings, context)
            self.collector.sampler = GivenSampler(context.policy, self.table, settings.pass_tokens)

    settings: dict[str, Any] = {
        "samples": SAMPLES, "objective": "leave_one_out", "normalisation": "sum", "ratio": "sequence",
        "clip_low": CLIP, "clip_high": CLIP, "kl": "reward", "kl_coefficient": plan.beta,
        "updates_per_batch": UPDATES, "sampling": Sampling(max_new_tokens=world.limit),
    }  # fmt: skip
    made = GRPOSettings(**settings_of(plan) | settings | chosen)
    return run("grpo", OfGiven, made, world, out, FunctionReward(given.function))
