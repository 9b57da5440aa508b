"""How fast a stage's parts run on this machine, measured on the model's shape with random weights.

Speed depends on the shape and not on what the weights hold, so no weights are needed. The training pass, the
pass without gradients, the optimizer step (through training/loop.py, the only one that takes one), the
sampler and the disk are timed apart; estimate.py adds them up.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trimtab.data.groups import CompletionGroup, pack
from trimtab.devices import autocast, best_device, synchronize
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.policy import Policy
from trimtab.models.reward_model import RewardModel
from trimtab.plan.memory import build
from trimtab.plan.work import Sampled, StageWork
from trimtab.rollout.sampler import Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.training.accelerator import make_accelerator
from trimtab.training.loop import Loop
from trimtab.training.stage_method import PolicyContext, TrainingContext

if TYPE_CHECKING:
    from transformers import PretrainedConfig


MEASURED_TOKENS = 1024
"""Of the pass that is timed; the time of a token hardly depends on how many there are beside it."""
MEASURED_ROWS = 128
MEASURED_DRAWS = 6
WRITTEN = 2**26
"""Bytes that are written to time the disk."""


@dataclass(frozen=True)
class Speed:
    """Seconds: of a packed token with and without gradients, of an optimizer step, of a byte written."""

    train_token: float
    forward_token: float
    optimizer_step: float
    written_byte: float


class Stopwatch:
    """Measures one stage's model. The model and its moments are freed with it."""

    def __init__(self, work: StageWork, config: PretrainedConfig, precision: str) -> None:
        self.work, self.precision = work, precision
        self.device = best_device()
        settings = work.settings
        with torch.random.fork_rng(devices=[]):
            model = build(config, settings.lora, settings.gradient_checkpointing, work.is_reward_model)
        self.policy = model.to(self.device)
        self.groups = _first(work.example, MEASURED_TOKENS)
        self.forward_token = 0.0
        """Seconds of a packed token without gradients; known once `speed` was asked for."""

    def speed(self) -> Speed:
        """Times a training pass, a forward pass, an optimizer step and a write."""
        train = self._timed(self._training_pass)
        with torch.no_grad():
            forward = self._timed(self._forward)
        tokens = sum(group.packed_length for group in self.groups)
        self.forward_token = forward / tokens
        step = 0.0 if isinstance(self.policy, RewardModel) else self._step(train / tokens)
        return Speed(train / tokens, self.forward_token, step, seconds_a_byte())

    def _timed(self, run: Callable[[], object], times: int = 2) -> float:
        """The faster of a few, after one that warms up."""
        run()
        times_taken = []
        for _ in range(times):
            self._wait()
            started = time.perf_counter()
            run()
            self._wait()
            times_taken.append(time.perf_counter() - started)
        return min(times_taken)

    def _wait(self) -> None:
        synchronize(self.device)

    def _forward(self) -> torch.Tensor:
        batch = pack(self.groups).to(self.device)
        with autocast(self.device, self.precision):
            if isinstance(self.policy, RewardModel):
                scores: torch.Tensor = self.policy(batch)
                return scores
            logps: torch.Tensor = self.policy(batch, entropy=True).logps
            return logps

    def _training_pass(self) -> None:
        self._forward().sum().backward()  # type: ignore[no-untyped-call]

    def _step(self, train_token: float) -> float:
        """A whole step of training/loop.py on one short group, less its pass: clipping and Adam."""
        assert isinstance(self.policy, Policy)
        group = min(self.groups, key=lambda group: group.packed_length)
        short = CompletionGroup(group.prompts[0][:8], (group.completions[0][:8],))
        plain = {"batch_size": 1, "accumulation": 1, "max_steps": 4, "precision": self.precision}
        settings = SFTSettings(**plain, learning_rate=1e-9)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            accelerator = make_accelerator(settings)
            context: PolicyContext = TrainingContext(self.policy, [short], [], settings, accelerator, Path(folder))
            method = SFT(settings, context)
            loop = Loop(self.policy, method, [short], settings, Path(folder), accelerator, lambda path: None)
            whole = self._timed(lambda: loop.train_step(0))
        return max(0.0, whole - short.packed_length * train_token)

    def decoding(self, sampled: Sampled) -> float:
        """Seconds for all the completions of `sampled`, each as long as the cap: its prompts, each once, and its
        draws, timed halfway to the cap on rows of unequal length, as batches have them."""
        rows = max(1, min(sampled.together, MEASURED_ROWS))
        columns = max(2, round(sampled.prompt_tokens + sampled.cap / 2))
        prompts = [[1] * columns, [1] * (columns - 1)][: min(rows, 2)]
        k = rows // len(prompts)
        assert isinstance(self.policy, Policy)
        sampler = TransformersSampler(self.policy)

        def drawn(tokens: int) -> float:
            sampling = Sampling(max_new_tokens=tokens, batch_size=rows)
            with autocast(self.device, self.precision):
                return self._timed(lambda: sampler.sample(prompts, k, sampling, seed=0, stops=()), 1)

        a_draw = max(0.0, drawn(1 + MEASURED_DRAWS) - drawn(1)) / MEASURED_DRAWS / (k * len(prompts))
        prefilled = sampled.completions / sampled.per_prompt * sampled.prompt_tokens
        return prefilled * self.forward_token + sampled.completions * sampled.cap * a_draw


def _first(groups: Sequence[CompletionGroup], tokens: int) -> list[CompletionGroup]:
    """The first groups up to so many tokens, one at least."""
    kept: list[CompletionGroup] = []
    for group in groups:
        if kept and sum(g.packed_length for g in kept) + group.packed_length > tokens:
            break
        kept.append(group)
    return kept


def seconds_a_byte() -> float:
    """Of writing to the disk, synced."""
    block = bytes(WRITTEN)
    with tempfile.TemporaryFile() as file:
        started = time.perf_counter()
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return (time.perf_counter() - started) / WRITTEN
