"""Supervised fine-tuning on the chosen completions, with or without a length penalty. Ouyang et al. 2022.

Groups of one completion. The loss is losses/sft.py's, by tokens or by sequences of the whole step. The
penalty (losses/length_penalty.py) is taken every `interval` steps on samples of the policy's own; its
gradient is clipped apart from SFT's and added to it. With a length encoding (models/length_encoding.py) each
completion is trained on under a countdown to its own end.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch, total_completion_tokens
from trimtab.data.settings import LEARNING_RATE, SEVERAL, STEPS, TOKENS, WEIGHT, Settings
from trimtab.errors import TrimtabError
from trimtab.losses.length_penalty import (
    SURVIVAL,
    Estimator,
    literal,
    pad_rows,
    penalty,
    score_function,
    stop_hazard,
)
from trimtab.losses.sft import Normalisation, sft
from trimtab.models.length_encoding import LengthEncoding, scale_for
from trimtab.models.policy import load_policy
from trimtab.rollout.sampler import Sample, Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.training.method import ExtraLoss, Sums
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import Prepared, StageMethod


class LengthPenaltySettings(Settings):
    """λ E[max(0, ℓ(ŷ) − ℓ(y))²], Eq. 3 of the course report."""

    weight: float = Field(0.001, gt=0, le=WEIGHT)
    """λ, the weight of the penalty beside SFT's loss."""
    scale: Literal["sequence", "token"] = "sequence"
    """What λ is measured against: a sequence's summed loss (the report's Eq. 2), or a token's mean loss.
    Whatever the normalisation, the two losses then keep their proportion."""
    interval: int = Field(100, gt=0, le=STEPS)
    """Optimizer steps from one penalty to the next."""
    estimator: Estimator = "stop_hazard"
    """How the penalty's gradient is estimated. stop_hazard: by where the model may end its own paths.
    score_function: by the samples' log-probabilities. literal: not at all, as the formula says."""
    samples: int | None = Field(None, gt=0, le=SEVERAL)
    """Samples of each prompt; None: 1 path for stop_hazard, 2 samples for score_function."""
    max_new_tokens: int = Field(350, gt=1, le=TOKENS)
    """Tokens of a sample at most."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The penalty's gradient is clipped to it before it is added."""

    @model_validator(mode="after")
    def _enough(self) -> LengthPenaltySettings:
        if self.estimator == "score_function" and self.samples == 1:
            raise ValueError("score_function needs at least two samples of each prompt for its baseline")
        return self

    @property
    def paths(self) -> int:
        return self.samples or (2 if self.estimator == "score_function" else 1)


class LengthEncodingSettings(Settings):
    """A countdown of the remaining tokens in the input, which makes completions end where they are asked to
    (docs/methods/length_encoding.md). `length_encoding: true` stands for these defaults."""

    strength: float = Field(0.3, gt=0, le=WEIGHT)
    """Norm of what is added to an embedding, in norms of the starting model's average embedding. More of it
    controls the length better, and disturbs what the model knows."""
    base: float = Field(10_000.0, gt=1, le=1e12)
    """Base of the wavelengths, 2π to 2π · base tokens."""
    target_length: int | None = Field(None, gt=0, le=TOKENS)
    """Tokens, end of turn included, where nobody asks for another length; None: the median of the training
    completions'. evaluation.decoding.target_length asks."""
    slack: float = Field(0.0, ge=0, le=WEIGHT)
    """0: completions end at the target. More: a target is an upper bound; in training the count starts at ℓ + u for
    a completion of ℓ tokens, u a whole number drawn anew in every step, uniform from 0 to slack · ℓ."""


class SFTSettings(TrainingSettings):
    learning_rate: float = Field(2e-5, gt=0, le=LEARNING_RATE)
    normalisation: Normalisation = "tokens"
    """What the loss is a mean over: the tokens of a step's completions, or its sequences, each a sum over
    its tokens."""
    length_penalty: LengthPenaltySettings | None = None
    """A penalty on answers longer than the chosen ones; None: none."""
    length_encoding: LengthEncodingSettings | None = None
    """A countdown in the input, by which answers end at a length you ask for. None: none, but for a model that has
    one already, which goes on with it."""

    @field_validator("length_encoding", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_of_the_two(self) -> SFTSettings:
        if self.length_penalty is not None and self.length_encoding is not None:
            raise ValueError("length_penalty and length_encoding exclude each other: choose one")
        return self


def penalised(settings: SFTSettings) -> SFTSettings:
    """The settings with a length penalty: their own, or its defaults."""
    return settings.model_copy(update={"length_penalty": settings.length_penalty or LengthPenaltySettings()})


class SFT(StageMethod):
    best_metric = "loss"
    best_is: Literal["highest", "lowest"] = "lowest"
    completions = "first"
    counts_down = True
    version = 1

    settings: SFTSettings

    def __init__(self, settings: SFTSettings, prepared: Prepared) -> None:
        super().__init__(settings, prepared)
        if settings.length_encoding is not None:
            prepared.policy.count_down(make_encoding(settings.length_encoding, prepared))
        elif settings.length_penalty is not None and prepared.policy.length_encoding is not None:
            raise TrimtabError("sft: this model counts down to a target length already: leave length_penalty out.")
        self.sampler = TransformersSampler(prepared.policy)
        self.drawn: dict[int, list[Sample]] = {}
        self.targets: dict[int, int] = {}

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Any:
        return load_policy(source, settings, settings.seed)

    def step_groups(self, groups: Sequence[CompletionGroup], step: int) -> Sequence[CompletionGroup]:
        """With slack in the length encoding: the groups with what this step counts down from."""
        encoding = self.prepared.policy.length_encoding
        if encoding is None or not encoding.slack:
            return groups
        draws = np.random.default_rng([self.settings.seed, step, 1]).random(len(groups)).tolist()
        return [
            group if any(group.truncated) else replace(group, target_length=_slackened(group, encoding.slack, draw))
            for group, draw in zip(groups, draws, strict=True)
        ]

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        return total_completion_tokens(groups) if self.settings.normalisation == "tokens" else len(groups)

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        return sft(policy(batch).logps, total), {}

    def evaluate_pass(self, policy: Callable[..., Any], batch: PackedBatch) -> Sums:
        """loss: nats a token over all validation completions, whatever normalisation training has."""
        out = policy(batch, entropy=True)
        tokens = float(out.logps.numel())
        return {"loss": (float(-out.logps.sum()), tokens), "entropy": (float(out.entropy.sum()), tokens)}

    # ---- the length penalty

    def extra(self, groups: Sequence[CompletionGroup], step: int) -> ExtraLoss | None:
        settings = self.settings.length_penalty
        if settings is None or step % settings.interval:
            return None
        # A chosen completion that was cut has no length to compare with.
        whole = [group for group in groups if not any(group.truncated)]
        if not whole:
            return None
        tokens = total_completion_tokens(groups) / len(groups)
        scale = {("sequences", "token"): tokens, ("tokens", "sequence"): 1 / tokens}.get(
            (self.settings.normalisation, settings.scale), 1.0
        )
        sampled = self._sample(whole, settings, step)
        total = len(whole) * settings.paths / (settings.weight * scale) if settings.weight else float("inf")
        return ExtraLoss("length_penalty", sampled, self._penalty_pass, total, settings.max_grad_norm)

    def _sample(
        self, groups: Sequence[CompletionGroup], settings: LengthPenaltySettings, step: int
    ) -> list[CompletionGroup]:
        """This process's share of the prompts, with the policy's completions in place of the data's."""
        acc = self.prepared.accelerator
        places = range(acc.process_index, len(groups), acc.num_processes)
        mine = [groups[i] for i in places]
        seeds = np.random.SeedSequence([self.settings.seed, step, 0])
        hazard = settings.estimator == "stop_hazard"
        with acc.autocast():
            found = self.sampler.sample(
                [group.prompt for group in mine],
                settings.paths,
                Sampling(max_new_tokens=settings.max_new_tokens),
                seed=int(seeds.generate_state(1)[0]),
                stops=self.prepared.stops,
                excluded=self.prepared.stops if hazard else (),
                survival=SURVIVAL if hazard else 0.0,
                places=places,
            )
        out = [
            CompletionGroup(group.prompt, tuple(s.tokens for s in several), group.index)
            for group, several in zip(mine, found, strict=True)
        ]
        self.drawn = {id(group): several for group, several in zip(out, found, strict=True)}
        self.targets = {id(new): len(old.completions[0]) for new, old in zip(out, mine, strict=True)}
        return out

    def _penalty_pass(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        settings, device = self.settings.length_penalty, batch.target.device
        assert settings is not None
        hazard = settings.estimator == "stop_hazard"
        targets_C = torch.tensor([self.targets[id(g)] for g in batch.groups for _ in g.completions], device=device)
        out = policy(batch, stops=self.prepared.stops if hazard else None)
        if hazard:
            ends = [len(s.tokens) + (s.finish == "survival") for g in batch.groups for s in self.drawn[id(g)]]
            logps_CT, mask_CT = pad_rows(out.logps, batch.lengths.tolist())
            stops_CT, _ = pad_rows(out.stop_logps, batch.lengths.tolist())
            ends_C = torch.tensor(ends, device=device)
            values_C = stop_hazard(logps_CT, stops_CT, mask_CT, targets_C, ends_C, settings.paths)
        else:
            logps_C = batch.sum_by_completion(out.logps)
            if settings.estimator == "literal":
                values_C = literal(logps_C, batch.lengths, targets_C)
            else:
                values_C = score_function(logps_C, batch.lengths, targets_C, settings.paths)
        found: Sums = {"length_penalty/value": (float(values_C.detach().sum()), float(values_C.numel()))}
        if not hazard:
            over = penalty(batch.lengths, targets_C).sqrt()
            found["length_penalty/excess_tokens"] = (float(over.sum()), float(over.numel()))
        return values_C.sum() / total, found


def make_encoding(settings: LengthEncodingSettings, prepared: Prepared) -> LengthEncoding:
    """The settings with what the starting model and the data decide. TrimtabError where the data have no length."""
    whole = [len(group.completions[0]) for group in prepared.train if not any(group.truncated)]
    if not whole:
        raise TrimtabError(
            "length_encoding: every training completion was cut, so none has an end to count down to. "
            "Raise data.max_length."
        )
    return LengthEncoding(
        scale=scale_for(prepared.policy.model.get_input_embeddings(), settings.strength),
        base=settings.base,
        target_length=settings.target_length or statistics.median_low(whole),
        slack=settings.slack,
    )


def _slackened(group: CompletionGroup, slack: float, draw: float) -> int:
    """The completion's length and a share `draw`, of [0, 1), of the slack: each whole number equally likely."""
    length = len(group.completions[0])
    return length + int(draw * (int(slack * length) + 1))
