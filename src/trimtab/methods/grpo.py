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

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.losses import policy_gradient as pg
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.on_policy import OnPolicyMethod
from trimtab.methods.rollouts import (
    DIFFERENCE,
    Rollouts,
    assign_advantages,
    engine_metrics,
    group_metrics,
    kl_of_samples,
    own_metrics,
    rewards_after_kl,
    rollout_group,
    table_rows,
)
from trimtab.models.policy import PolicyOutput
from trimtab.training.step import Forward, Step, Sums


class GRPO(OnPolicyMethod[GRPOSettings]):
    """Trains on advantages within a group: sample → score → KL into the reward → advantages → loss."""

    name = "grpo"
    version = 1

    def training_groups(self) -> Sequence[CompletionGroup]:
        """The prompts; with rollouts fixed, the rollouts that are drawn of them before training."""
        if self.settings.rollouts == "on_policy":
            return self.train
        order = np.random.default_rng([self.settings.seed, 0]).permutation(len(self.train))
        prompts = [self.train[i] for i in order[: self.settings.fixed_prompts].tolist()]
        self.batch = self.rollouts(prompts, 0)
        if not self.batch.groups:
            raise TrimtabError("grpo: none of the fixed prompts has two completions with a reward.")
        return self.batch.groups

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """The rollouts of the step: fresh ones, those of the batch that several steps share, or fixed ones."""
        batch, fixed = self.batch, self.settings.rollouts == "fixed"
        if fixed:
            batch = replace(batch, groups=list(groups))
            drawn = step == 0
        elif drawn := step % self.settings.updates_per_batch == 0:
            self.batch = batch = self.rollouts(groups, step)
        total = pg.normaliser(
            self.settings.normalisation, batch.completions, batch.tokens, self.settings.sampling.max_new_tokens
        )
        trained = batch.groups
        if not (fixed or self.loss_has_kl or self.context.accelerator.num_processes > 1):
            trained = [group for group in trained if group.columns["advantages"].any()]  # the others' gradient is 0
        metrics = batch.metrics if drawn else {}
        loss = partial(self.loss, sees_rounding=f"{DIFFERENCE}/mean" not in metrics)
        return Step(trained, total, loss, metrics, samples=batch.rows if drawn else ())

    def rollouts(self, prompts: Sequence[CompletionGroup], step: int) -> Rollouts:
        """The batch, with all that comes before the loss. Groups without an advantage are left out."""
        settings, collector = self.settings, self.collector
        last = settings.rollouts == "fixed" or self.is_last_batch(step)
        scorings = collector.draw(prompts, settings.samples, step, last)
        old_logps = collector.sampled_logps(scorings)
        ref_logps, at_one = collector.read_reference(self.reference, scorings)
        coefficient = settings.kl_coefficient if settings.kl == "reward" else 0.0
        assigned, groups = [], []
        for scoring, old, ref in zip(scorings, old_logps, ref_logps, strict=True):
            rewards = rewards_after_kl(scoring, kl_of_samples(old, ref), coefficient)
            of_group = assign_advantages(scoring, rewards, settings.objective, settings.mask_cut)
            kept = [float(of_group.advantages[place] or 0.0) for place in of_group.kept]
            rollout = rollout_group(scoring, of_group.kept, kept, old_logps=old, ref_logps=ref) if kept else None
            assigned.append(of_group)
            groups.append(rollout)
        metrics = collector.metrics(scorings, at_one)
        metrics |= group_metrics(scorings, assigned) | engine_metrics(scorings)
        metrics |= own_metrics(collector.reward, metrics)
        rows = table_rows(scorings, [of_group.advantages for of_group in assigned], self.context.train_records)
        return Rollouts(collector.gather_rollouts(prompts, groups), metrics, rows)

    def state(self) -> JsonObject:
        """Nothing with fixed rollouts, which a resumed run draws again, the same."""
        return {} if self.settings.rollouts == "fixed" else super().state()

    @property
    def loss_has_kl(self) -> bool:
        """Whether the KL is a term of the loss, and not of the reward."""
        return self.settings.kl != "reward" and self.settings.kl_coefficient > 0

    def loss(
        self, policy: Forward, batch: PackedBatch, total: float, sees_rounding: bool = True
    ) -> tuple[Tensor, Sums]:
        """A pass's share of the policy gradient, with the KL where it is a term of the loss.

        sees_rounding: whether the pass says how far the sampler's arithmetic is from its own.
        """
        settings, columns = self.settings, batch.columns
        old_M = columns["old_logps"]
        exact = self.reference if settings.kl == "exact" and settings.kl_coefficient else None
        temperatures = columns["temperatures"] if self.tempered else None
        out: PolicyOutput = policy(batch, entropy=True, temperature=temperatures, reference=exact)
        on_policy = settings.updates_per_batch == 1 and settings.rollouts == "on_policy"
        # The very policy that sampled: its ratio is 1 exactly, whatever rounding the sampler has.
        denominator_M = out.logps.detach() if on_policy else old_M
        weights_M = pg.weigh_tokens(batch.lengths, batch.owner, settings.normalisation)
        token_M = weights_M
        if settings._corrected:
            importance_M = pg.importance_weights(old_M, columns["sampler_logps"], settings.weight_cap)
            token_M = importance_M if weights_M is None else weights_M * importance_M
        gradient = pg.policy_gradient(
            out.logps, denominator_M, columns["advantages"], batch.owner,
            ratio=settings.ratio, clip_low=settings.clip_low, clip_high=settings.clip_high, weights_M=token_M,
        )  # fmt: skip
        loss = gradient.losses.sum()
        if self.loss_has_kl:
            loss = loss + settings.kl_coefficient * self._kl(out, columns["ref_logps"], batch, weights_M).sum()
        return loss / total, self._pass_metrics(out, old_M, gradient, sees_rounding)

    def _kl(self, out: PolicyOutput, ref_M: Tensor, batch: PackedBatch, weights_M: Tensor | None) -> Tensor:
        count = batch.lengths.numel()
        if self.settings.kl == "exact":
            assert out.kl is not None
            return pg.kl_exact(out.kl, out.logps, batch.owner, batch.lengths)
        if self.settings.kl == "k2":
            return pg.kl_k2(out.logps, ref_M, batch.owner, count)
        return pg.kl_k3(out.logps, ref_M, batch.owner, count, weights_M)

    def _pass_metrics(
        self, out: PolicyOutput, old_M: Tensor, gradient: pg.PolicyGradient, sees_rounding: bool
    ) -> Sums:
        assert out.entropy is not None
        tokens = float(out.logps.numel())
        off = (out.logps.detach() - old_M).abs()
        metrics: Sums = {"entropy": (float(out.entropy.sum()), tokens)}
        if self.settings.updates_per_batch > 1 or self.settings.rollouts == "fixed":
            ratios = float(gradient.ratios.numel())
            metrics |= {
                "clip_ratio/low_mean": (float(gradient.clipped_low.sum()), ratios),
                "clip_ratio/high_mean": (float(gradient.clipped_high.sum()), ratios),
                "ratio": (float(gradient.ratios.sum()), ratios),
            }
        elif sees_rounding:
            # The same weights: what differs is the engine's rounding.
            metrics[f"{DIFFERENCE}/mean"] = (float(off.sum()), tokens)
            metrics[f"{DIFFERENCE}/max"] = (float(off.max()), 1)
        return metrics
