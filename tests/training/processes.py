"""Every method for a few steps, in this process, or in each of several:

torchrun --nproc_per_node 2 processes.py MODEL PAIRS OUT [JOB …]

SHARDING=fsdp2 in the environment has them share the weights out, and writes down in OUT what each held of them;
KILLED_AT=2 has them die by SIGKILL right behind the checkpoint of that step.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM

from trimtab.data import stored_records
from trimtab.data.splits import DataSettings
from trimtab.methods.distillation import Distillation
from trimtab.methods.distillation_settings import DistillationSettings
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.on_policy import OnPolicyMethod
from trimtab.methods.online_dpo import OnlineDPO
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.ppo import PPO
from trimtab.methods.ppo_settings import PPOSettings
from trimtab.methods.reward import RewardModelTraining
from trimtab.methods.reward_settings import ResponseConditioning, RewardModelSettings
from trimtab.methods.rounds import run_rounds
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import LengthEncodingSettings, LengthPenaltySettings, SFTSettings
from trimtab.models.settings import LoraSettings
from trimtab.rewards.function import FunctionReward
from trimtab.rollout.sampler import Sampling
from trimtab.training import stage
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.order_settings import OrderSettings
from trimtab.training.run_state import Finished
from trimtab.training.stage import run_stage


class Disagreeing(SFT):
    """Each process finds another loss: the main one's falls, the others' rises."""

    seen = 0

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        self.seen += 1
        return {"loss": float(self.seen if self.context.accelerator.process_index else -self.seen)}


COMMON: dict[str, Any] = {
    "batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0, "logging_interval": 1,
    "precision": "float32", "token_budget": 300,
}  # fmt: skip
SHORT = Sampling(max_new_tokens=8)
PENALTY = LengthPenaltySettings(weight=0.1, interval=1, max_new_tokens=12)
GROUP: dict[str, Any] = {"sampling": SHORT, "samples": 3, "validation_prompts": 4}
ROUND: dict[str, Any] = {"sampling": SHORT, "samples": 3, "rounds": 1, "rewards": [{"kind": "trained"}]}
LAST: dict[str, Any] = {"best_metric": "step", "best_is": "highest"}
"""Keeps the weights of the last step, to be compared: the best may be those that it started from."""
JOBS: dict[str, tuple[Any, Any]] = {
    "sft": (SFT, SFTSettings(**COMMON)),
    "sft_sequences": (SFT, SFTSettings(**COMMON, normalisation="sequences")),
    "sft_length": (SFT, SFTSettings(**COMMON, length_penalty=PENALTY)),
    "sft_countdown": (SFT, SFTSettings(**COMMON, length_encoding=LengthEncodingSettings(slack=1.0))),
    "sft_lora": (SFT, SFTSettings(**COMMON, lora=LoraSettings(rank=4))),
    "distillation": (Distillation, DistillationSettings(**COMMON, sampling=SHORT, validation_prompts=4)),
    "dpo": (DPO, DPOSettings(**COMMON)),
    "dpo_lora": (DPO, DPOSettings(**COMMON, lora=LoraSettings(rank=4))),
    "ld_dpo": (DPO, DPOSettings(**COMMON, loss="ld_dpo")),
    "dpo_sft": (DPO, DPOSettings(**COMMON, loss={"dpo": 1.0, "sft": 0.1})),
    "dpo_ordered": (DPO, DPOSettings(**COMMON, order=OrderSettings(by="loss", start=0.05))),
    "rc_dpo": (DPO, DPOSettings(**COMMON, loss="rc_dpo")),
    "kto": (DPO, DPOSettings(**COMMON, loss="kto")),
    "ranking": (DPO, DPOSettings(**COMMON, loss="ranking")),
    "reward": (RewardModelTraining, RewardModelSettings(**COMMON)),
    "rc_reward": (RewardModelTraining, RewardModelSettings(**COMMON, response_conditioned=ResponseConditioning())),
    "grpo": (GRPO, GRPOSettings(**COMMON, **GROUP)),
    "grpo_ordered": (
        GRPO,
        GRPOSettings(**COMMON, **GROUP, order=OrderSettings(by="reward", samples=2, start=0.05)),
    ),
    "grpo_tokens": (GRPO, GRPOSettings(**COMMON, **GROUP, normalisation="tokens", kl="k3", updates_per_batch=2)),
    "grpo_fixed": (GRPO, GRPOSettings(**COMMON, **GROUP, rollouts="fixed", fixed_prompts=5, kl="exact")),
    "ppo": (PPO, PPOSettings(**COMMON | LAST | {"max_steps": 4}, **GROUP | {"samples": 2}, updates_per_batch=2)),
    "ppo_one": (
        PPO,
        PPOSettings(**COMMON | LAST | {"batch_size": 2}, **GROUP | {"samples": 1}, updates_per_batch=1),
    ),
    "sft_four": (SFT, SFTSettings(**COMMON | LAST | {"max_steps": 4, "checkpoint_interval": 2})),
    "dpo_lora_four": (
        DPO,
        DPOSettings(**COMMON | LAST | {"max_steps": 4, "checkpoint_interval": 2}, lora=LoraSettings(rank=4)),
    ),
    "disagreeing": (Disagreeing, SFTSettings(**COMMON | {"max_steps": 4, "evaluation_interval": 1, "patience": 1})),
    "grpo_one": (GRPO, GRPOSettings(**COMMON | {"batch_size": 2}, **GROUP)),
    "online_dpo-1": (OnlineDPO, OnlineDPOSettings(**COMMON, **ROUND)),
}
if importlib.util.find_spec("bitsandbytes"):
    JOBS["dpo_nf4"] = (DPO, DPOSettings(**COMMON, lora=LoraSettings(rank=4, quantize="nf4")))


def low(completion_ids: list[list[int]], prompts: list[Any]) -> list[float | None]:
    """Tokens of the lower half; nothing for some prompts, so that a process may have no group to train on."""
    texts = [p if isinstance(p, str) else p[-1]["content"] for p in prompts]
    scores = [float(sum(token < 896 for token in ids)) for ids in completion_ids]
    return [None if len(text) % 3 == 0 else score for text, score in zip(texts, scores, strict=True)]


def counted(file: Path) -> FunctionReward:
    """`low`, that notes how many completions it was asked for."""

    def counting(completion_ids: list[list[int]], prompts: list[Any]) -> list[float | None]:
        with file.open("a") as out:
            out.write("x" * len(completion_ids))
        return low(completion_ids, prompts)

    return FunctionReward(counting)


def a_teacher(student: Path) -> Path:
    """Another model of the student's tokens, the same for every process."""
    folder = student.with_name(f"{student.name}-teacher")
    if not folder.is_dir():
        shutil.copytree(student, folder)
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_pretrained(student)
        for weight in model.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
        model.save_pretrained(folder)
    return folder


class Watched(Loop):
    """Writes down what this process held of weights and moments at the end, and dies where it is told to."""

    def _checkpoint(self) -> None:
        super()._checkpoint()
        if self.state.step == int(os.environ.get("KILLED_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self) -> Finished:
        finished = super().run()
        trained = list(self.weights.trained.parameters())
        moments = [x for state in self.optimizer.state.values() for name, x in state.items() if name != "step"]
        held = {
            "sharded": [hasattr(weight, "full_tensor") for weight in trained],
            "weights": sum(weight.numel() for weight in trained),
            "weights_here": sum(_here(weight) for weight in trained),
            "moments": sum(moment.numel() for moment in moments),
            "moments_here": sum(_here(moment) for moment in moments),
            "plain_here": sum(weight.untyped_storage().nbytes() for weight in self.policy.parameters()),
        }
        place = self.accelerator.process_index
        (self.folder / f"held-{place}.json").write_text(json.dumps(held))
        return finished


def _here(tensor: Any) -> int:
    return int((tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel())


COMPARED = ("loss", "grad_norm", "eval_loss", "reward", "length_penalty", "length_penalty/grad_norm", "kl")


def check_same_steps(expected: Path, found: Path, rel: float, absolute: float) -> None:
    """The metrics of two stages' folders are the same, row by row, within these tolerances."""
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (expected, found))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    checked = 0
    for alone, shared in zip(one, two, strict=True):
        for name in COMPARED:
            if name in alone:
                assert shared[name] == pytest.approx(alone[name], rel=rel, abs=absolute), (alone["step"], name)
                checked += 1
    assert checked >= 4


KEPT = ("sft",)
"""Jobs whose rows are kept on the disk: one process writes, all read."""
SHARING = ("dpo", "dpo_lora")
"""Jobs that share a cache: the second reads the reference that the first has computed."""


def run_jobs(model: Path, pairs: Path, out: Path, jobs: Sequence[str] = ()) -> None:
    """jobs: names; none: all."""
    rows = DataSettings(train=str(pairs), max_length=200, validation_rows=6)
    for name in jobs or JOBS:
        method, settings = JOBS[name]
        if sharding := os.environ.get("SHARDING"):
            settings = settings.model_copy(update={"sharding": sharding})
        cache = out / "cache" if name in SHARING else None
        if isinstance(settings, DistillationSettings):
            settings = settings.model_copy(update={"teacher": str(a_teacher(model))})
        out.mkdir(parents=True, exist_ok=True)
        reward = counted(out / f"{name}.calls") if issubclass(method, (OnPolicyMethod, OnlineDPO)) else None
        if method is OnlineDPO:
            run_rounds(settings, rows, None, str(model), out, out, {"trained": reward}, out / "scores.sqlite")
            continue
        large = patch.object(stored_records, "LARGE", 10 if name in KEPT else stored_records.LARGE)
        with large, patch.object(stage, "Loop", Watched):
            run_stage(name, method, settings, rows, str(model), out / name, reward=reward, cache=cache)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(*map(Path, sys.argv[1:4]), jobs=sys.argv[4:])
