"""The length penalty of supervised fine-tuning: λ E[max(0, ℓ(ŷ) − ℓ(y))²], Eq. 3 of the course report.

It is taken every `interval` steps on samples of the policy's own; its gradient (losses/length_penalty.py has the
estimators) is clipped apart from that of the likelihood and added to it.

Dimension suffixes: _C completions, _T their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch, total_completion_tokens
from trimtab.losses.length_penalty import (
    SURVIVAL,
    literal,
    pad_rows,
    penalty,
    score_function,
    stop_hazard,
)
from trimtab.losses.sft import Normalisation
from trimtab.methods.sft_settings import LengthPenaltySettings
from trimtab.rollout.sampler import Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.training.accelerator import share_of
from trimtab.training.stage_method import PolicyContext
from trimtab.training.step import ExtraLoss, Forward, Sums


class LengthPenalty:
    """The penalty of one stage. normalisation: of the likelihood beside it; seed: of the samples."""

    def __init__(
        self, settings: LengthPenaltySettings, normalisation: Normalisation, seed: int, context: PolicyContext
    ) -> None:
        self.settings, self.normalisation, self.seed, self.context = settings, normalisation, seed, context
        self.by_hazard = settings.estimator == "stop_hazard"
        self.sampler = TransformersSampler(context.policy)

    def of_step(self, groups: Sequence[CompletionGroup], step: int) -> ExtraLoss | None:
        """The penalty on fresh samples of these prompts; None in a step that takes none."""
        settings = self.settings
        if step % settings.interval:
            return None
        # A chosen completion that was cut has no length to compare with.
        whole = [group for group in groups if not any(group.truncated)]
        if not whole:
            return None
        tokens = total_completion_tokens(groups) / len(groups)
        scale = {("sequences", "token"): tokens, ("tokens", "sequence"): 1 / tokens}.get(
            (self.normalisation, settings.scale), 1.0
        )
        total = len(whole) * settings.paths / (settings.weight * scale) if settings.weight else float("inf")
        return ExtraLoss("length_penalty", self._sample(whole, step), self.loss, total, settings.max_grad_norm)

    def _sample(self, groups: Sequence[CompletionGroup], step: int) -> list[CompletionGroup]:
        """This process's share of the prompts, with the policy's completions in place of the data's.

        Columns, [C]: data_lengths, tokens of the data's completion; ends, where the sample's path ends.
        """
        acc, settings = self.context.accelerator, self.settings
        places = share_of(acc, len(groups))
        mine = [groups[i] for i in places]
        seeds = np.random.SeedSequence([self.seed, step, 0])
        with acc.autocast():
            samples = self.sampler.sample(
                [group.prompt for group in mine],
                settings.paths,
                Sampling(max_new_tokens=settings.max_new_tokens),
                seed=int(seeds.generate_state(1)[0]),
                stops=self.context.stops,
                excluded=self.context.stops if self.by_hazard else (),
                survival=SURVIVAL if self.by_hazard else 0.0,
                places=places,
            )
        return [
            CompletionGroup(group.prompt, tuple(s.tokens for s in of_group), group.index).with_columns(
                data_lengths=torch.tensor([len(group.completions[0])] * len(of_group)),
                ends=torch.tensor([len(s.tokens) + (s.finish == "survival") for s in of_group]),
            )
            for group, of_group in zip(mine, samples, strict=True)
        ]

    def loss(self, policy: Forward, batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        """A pass's share of the penalty, whose gradient is the estimator's."""
        settings, targets_C = self.settings, batch.columns["data_lengths"]
        out = policy(batch, stops=self.context.stops if self.by_hazard else None)
        if self.by_hazard:
            logps_CT, mask_CT = pad_rows(out.logps, batch.lengths.tolist())
            stops_CT, _ = pad_rows(out.stop_logps, batch.lengths.tolist())
            values_C = stop_hazard(
                logps_CT, stops_CT, mask_CT, targets_C, batch.columns["ends"], settings.paths
            )  # fmt: skip
        else:
            logps_C = batch.sum_by_completion(out.logps)
            if settings.estimator == "literal":
                values_C = literal(logps_C, batch.lengths, targets_C)
            else:
                values_C = score_function(logps_C, batch.lengths, targets_C, settings.paths)
        metrics: Sums = {"length_penalty/value": (float(values_C.detach().sum()), float(values_C.numel()))}
        if not self.by_hazard:
            excess_C = penalty(batch.lengths, targets_C).sqrt()
            metrics["length_penalty/excess_tokens"] = (float(excess_C.sum()), float(excess_C.numel()))
        return values_C.sum() / total, metrics
