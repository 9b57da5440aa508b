"""Group policy gradient: what the course report calls GRPO (its Eq. 6), and its relatives.

Eq. 6 is REINFORCE with a leave-one-out baseline, RLOO (Ahmadian et al. 2024, arXiv 2402.14740), on
whole-sequence log-probabilities; DeepSeekMath's GRPO (Shao et al. 2024, arXiv 2402.03300) is objective
group_normalised, normalisation sequences, kl k3. Each step samples completions of its prompts, scores
them, turns each group's rewards into advantages, and takes one optimizer step (`updates_per_batch` of
them, with clipped ratios, where it is more than 1).

Where we depart from Eq. 6: the KL to the reference is subtracted from the reward, where its gradient is
that of KL(π‖π_ref) (docs/methods/grpo.md); samples at temperatures ≠ 1 are corrected for, or said not to be.
A policy with a length encoding samples, and is trained, under its own target length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from trimtab.advantages import ADVANTAGES
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.settings import ROWS, SEVERAL, WEIGHT
from trimtab.errors import TrimtabError
from trimtab.losses import policy_gradient as pg
from trimtab.methods.on_policy import OnPolicyMethod, OnPolicySettings
from trimtab.methods.rollouts import DIFFERENCE, Scoring, Shaped, engine_metrics, group_metrics, shape
from trimtab.training.method import Sums


class GRPOSettings(OnPolicySettings):
    samples: int = Field(4, ge=2, le=SEVERAL)
    """Completions of each prompt; a baseline needs two."""
    objective: str = "leave_one_out"
    """How a group's rewards become advantages: a name of the table in advantages.py (docs/methods/grpo.md)."""
    normalisation: pg.Normalisation = "sum"
    """What a step's loss is divided by. sum: completions. sequences: completions, each a mean over its tokens.
    tokens: completion tokens. constant: completions × sampling.max_new_tokens."""
    ratio: pg.RatioLevel = "token"
    """Whether the ratio of the new policy to the one that sampled is each token's, or the whole sequence's."""
    clip_low: float | None = Field(0.2, gt=0, lt=1)
    """The ratio is clipped below 1 − clip_low; None: it is not. It matters from the second
    update on the same samples."""
    clip_high: float | None = Field(0.2, gt=0)
    """The ratio is clipped above 1 + clip_high; None: it is not."""
    kl: Literal["reward", "k2", "exact", "k3"] = "reward"
    """How the reference is kept near. reward: the KL is subtracted from the reward. k2, exact, k3: an estimator of
    it is added to the loss."""
    kl_coefficient: float = Field(0.1, ge=0, le=WEIGHT)
    """λ of Eq. 6: how dear it is to leave the reference."""
    rollouts: Literal["on_policy", "fixed"] = "on_policy"
    """fixed: fixed_prompts prompts are sampled once, before training, and trained on in epochs."""
    fixed_prompts: int = Field(50, gt=0, le=ROWS)
    """How many prompts rollouts fixed samples."""

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ADVANTAGES:
            raise ValueError(f"unknown objective {value!r}; known: {', '.join(ADVANTAGES)}")
        return value

    @model_validator(mode="after")
    def _honest(self) -> GRPOSettings:
        if self.rollouts == "fixed" and self.kl == "reward" and self.kl_coefficient:
            raise ValueError(
                "kl 'reward' is always 0 with fixed rollouts, which come from the reference itself; use k2 or exact"
            )
        if self.rollouts == "fixed" and self.updates_per_batch > 1:
            raise ValueError("fixed rollouts are reused by epochs; updates_per_batch is for on_policy")
        if self.kl in ("k2", "exact") and self.normalisation == "sequences":
            raise ValueError(f"kl {self.kl!r} is of whole sequences, and has no mean over a sequence's tokens")
        if self.ratio == "sequence" and (self.normalisation == "sequences" or self._corrected):
            raise ValueError("ratio 'sequence' has no terms by token to weigh: use ratio 'token'")
        return self


class GRPO(OnPolicyMethod):
    name = "grpo"
    version = 1
    settings: GRPOSettings

    # ---- rollouts

    def training_groups(self) -> Sequence[CompletionGroup]:
        if self.settings.rollouts == "on_policy":
            return self.prepared.train
        order = np.random.default_rng([self.settings.seed, 0]).permutation(len(self.prepared.train))
        prompts = [self.prepared.train[i] for i in order[: self.settings.fixed_prompts].tolist()]
        found = self._collect(prompts, 0)
        self._hold(found)
        if not found:
            raise TrimtabError("grpo: none of the fixed prompts has two completions with a reward.")
        return [rollout.group for rollout in found]

    def step_groups(self, groups: Sequence[CompletionGroup], step: int) -> Sequence[CompletionGroup]:
        if self.settings.rollouts == "fixed":
            self._count([self.by_group[id(group)] for group in groups])
            return groups
        everyone = super().step_groups(groups, step)
        if self.prepared.accelerator.num_processes > 1 or self._loss_has_kl:
            return everyone
        return [rollout.group for rollout in self.batch if any(rollout.advantages)]  # the others' gradient is 0

    def _is_last(self, step: int) -> bool:
        return self.settings.rollouts == "fixed" or super()._is_last(step)

    @property
    def _loss_has_kl(self) -> bool:
        return self.settings.kl != "reward" and self.settings.kl_coefficient > 0

    def _shape(self, scorings: Sequence[Scoring]) -> list[Shaped]:
        settings = self.settings
        references = self._logps(self.reference, scorings, self.tempered)
        drawn_from = self._policy_logps(scorings)
        old = drawn_from if self.tempered else [[torch.tensor(s.policy_logps) for s in o.samples] for o in scorings]
        kl = settings.kl_coefficient if settings.kl == "reward" else 0.0
        shaped = [
            shape(one, olds, refs, settings.objective, kl, settings.mask_cut)
            for one, olds, refs in zip(scorings, old, references, strict=True)
        ]
        self.pending = self._sampled_metrics(scorings, references) | group_metrics(scorings, shaped)
        if self.by_vllm:
            self.pending |= engine_metrics(scorings, drawn_from)
        return shaped

    def _policy_logps(self, scorings: Sequence[Scoring]) -> list[list[Tensor]]:
        """The policy's log-probabilities of its samples, each at its own temperature. Those of another engine
        are known at temperature 1 only."""
        if self.by_vllm and any(s.temperature != 1 for one in scorings for s in one.samples):
            return self._logps(self.prepared.policy, scorings, True)
        return [
            [torch.tensor(s.policy_logps if self.by_vllm else s.logps) for s in one.samples] for one in scorings
        ]

    def state(self) -> Mapping[str, Any]:
        if self.settings.rollouts == "fixed":
            return {"table": self.table}  # the rollouts are drawn again, the same, and watched again
        return super().state()

    # ---- the loss

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        return pg.normaliser(
            self.settings.normalisation,
            self.total_completions,
            self.total_tokens,
            self.settings.sampling.max_new_tokens,
        )

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        settings, rollouts = self.settings, [self.by_group[id(group)] for group in batch.groups]
        advantages_C = torch.tensor([a for r in rollouts for a in r.advantages], device=batch.target.device)
        sampler_M, stored_M, ref_M = (
            self._stored(batch, name) for name in ("sampler_logps", "old_logps", "ref_logps")
        )
        temperature = self._stored(batch, "temperatures") if self.tempered else None
        exact = self.reference if settings.kl == "exact" and settings.kl_coefficient else None
        out = policy(batch, entropy=True, temperature=temperature, reference=exact)
        on_policy = settings.updates_per_batch == 1 and settings.rollouts == "on_policy"
        # The very policy that sampled: its ratio is 1 exactly, whatever rounding the sampler has.
        old_M = out.logps.detach() if on_policy else stored_M
        weights_M = pg.weigh_tokens(batch.lengths, batch.owner, settings.normalisation)
        token_M = weights_M
        if settings._corrected:
            importance_M = pg.importance_weights(stored_M, sampler_M, settings.weight_cap)
            token_M = importance_M if weights_M is None else weights_M * importance_M
        found = pg.policy_gradient(
            out.logps, old_M, advantages_C, batch.owner,
            ratio=settings.ratio, clip_low=settings.clip_low, clip_high=settings.clip_high, weights_M=token_M,
        )  # fmt: skip
        loss = found.losses.sum()
        if self._loss_has_kl:
            loss = loss + settings.kl_coefficient * self._kl(out, ref_M, batch, weights_M).sum()
        return loss / total, self._pass_metrics(out, stored_M, found)

    def _kl(self, out: Any, ref_M: Tensor, batch: PackedBatch, weights_M: Tensor | None) -> Tensor:
        count = batch.lengths.numel()
        if self.settings.kl == "exact":
            return pg.kl_exact(out.kl, out.logps, batch.owner, batch.lengths)
        if self.settings.kl == "k2":
            return pg.kl_k2(out.logps, ref_M, batch.owner, count)
        return pg.kl_k3(out.logps, ref_M, batch.owner, count, weights_M)

    def _pass_metrics(self, out: Any, stored_M: Tensor, found: pg.PolicyGradient) -> Sums:
        tokens = float(out.logps.numel())
        off = (out.logps.detach() - stored_M).abs()
        metrics: Sums = {"entropy": (float(out.entropy.sum()), tokens)}
        if self.settings.updates_per_batch > 1 or self.settings.rollouts == "fixed":
            ratios = float(found.ratios.numel())
            metrics |= {
                "clip_ratio/low_mean": (float(found.clipped_low.sum()), ratios),
                "clip_ratio/high_mean": (float(found.clipped_high.sum()), ratios),
                "ratio": (float(found.ratios.sum()), ratios),
            }
        elif not self.by_vllm:  # vLLM's are known since the samples are
            # The same weights: what differs is the engine's rounding.
            metrics[f"{DIFFERENCE}/mean"] = (float(off.sum()), tokens)
            metrics[f"{DIFFERENCE}/max"] = (float(off.max()), 1)
        return metrics
