"""PPO with a value head (Schulman et al. 2017, arXiv 1707.06347), on language as Ouyang et al. 2022 (2203.02155).

Each batch samples completions of its prompts, scores them, turns score and KL into a reward for each token, and
these with the value's estimates into an advantage for each token (losses/ppo.py); then `updates_per_batch`
optimizer steps are taken on the samples, with clipped ratios, for policy and value together.

Where we depart: the value is a linear head on the policy's own hidden states, where Ouyang et al. have a model that
starts from the reward model; every update takes the whole batch, without minibatches; no pretraining term; no
entropy bonus. docs/methods/ppo.md has the equations.

Dimension suffixes: _M completion tokens, _C completions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.losses import policy_gradient as pg
from trimtab.losses import ppo
from trimtab.methods.on_policy import OnPolicyMethod
from trimtab.methods.ppo_settings import PPOSettings
from trimtab.methods.rollouts import (
    Rollouts,
    Scoring,
    engine_metrics,
    kl_of_samples,
    own_metrics,
    rollout_group,
    table_rows,
    trained_on,
)
from trimtab.models.policy import VALUE_HEAD, Policy
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import PolicyContext
from trimtab.training.step import Forward, Step, Sums

HEAD_RATE = 10.0
"""The value head's learning rate as a multiple of the policy's, where none is given."""


class PPO(OnPolicyMethod[PPOSettings]):
    """Trains policy and value head on advantages by token, several times on the same samples."""

    name = "ppo"
    models_read = 2  # the policy too, for its values
    within_groups = False  # the baseline is the value head's
    version = 1

    def __init__(self, settings: PPOSettings, context: PolicyContext) -> None:
        super().__init__(settings, context)
        head = settings.value_learning_rate
        self.rates = {VALUE_HEAD: HEAD_RATE if head is None else head / settings.learning_rate}

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Policy:
        """The policy with a value head, which starts at 0."""
        policy = super().load(source, settings)
        policy.add_value_head()
        return policy

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """The rollouts of the batch, which `updates_per_batch` steps train on."""
        drawn = step % self.settings.updates_per_batch == 0
        if drawn:
            self.batch = self.rollouts(groups, step)
        batch = self.batch
        # Tokens of the whole step: of policy and value alike, as in TRL.
        metrics, rows = (batch.metrics, batch.rows) if drawn else ({}, [])
        return Step(batch.groups, batch.tokens, self.loss, metrics, samples=rows)

    def rollouts(self, prompts: Sequence[CompletionGroup], step: int) -> Rollouts:
        """The batch with everything that comes before the loss.

        Further columns, [M]: token_advantages, returns, and the values of the policy
        that sampled; advantages are the mean over a completion's tokens, before whitening, for the table.
        """
        collector = self.collector
        scorings = collector.draw(prompts, self.settings.samples, step, self.is_last_batch(step))
        read = collector.read(self.context.policy, scorings, "logps", "values")
        ref_logps, at_one = collector.read_reference(self.reference, scorings)
        rollouts_and_means = [
            self._with_advantages(*of_group)
            for of_group in zip(scorings, read["logps"], ref_logps, read["values"], strict=True)
        ]
        groups = [group for group, _ in rollouts_and_means]
        metrics = collector.metrics(scorings, at_one)
        metrics |= {"groups_dropped": (sum(group is None for group in groups), len(groups))}
        metrics |= self._reward_metrics(scorings, read["logps"], ref_logps)
        comparable = self.tempered or all(s.temperature == 1 for scoring in scorings for s in scoring.samples)
        metrics |= engine_metrics(scorings, read["logps"] if comparable else None)
        metrics |= own_metrics(collector.reward, metrics)
        rows = table_rows(scorings, [means for _, means in rollouts_and_means], self.context.train_records)
        everyones = collector.gather_rollouts(prompts, groups)
        explained = _explained_variance(everyones)
        metrics |= {} if explained is None else {"val/explained_variance": (explained, 1.0)}
        return Rollouts(_whitened(everyones) if self.settings.whiten else everyones, metrics, rows)

    def _with_advantages(
        self, scoring: Scoring, old: Sequence[Tensor], ref: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[CompletionGroup | None, list[float | None]]:
        """A group's samples that have a score, with advantages and returns; and each sample's mean advantage."""
        settings = self.settings
        scores = [scored.score for scored in scoring.scored]
        kept = trained_on(scoring, scores, settings.mask_cut)
        means: list[float | None] = [None] * len(scoring.samples)
        if not kept:
            return None, means
        lengths_C = torch.tensor([len(scoring.samples[i].tokens) for i in kept])
        scores_C = torch.tensor([scores[i] for i in kept])
        old_M, ref_M, values_M = (torch.cat([part[i] for i in kept]) for part in (old, ref, values))
        rewards_M = ppo.token_rewards(scores_C, old_M, ref_M, lengths_C, settings.kl_coefficient)
        gae = ppo.gae(rewards_M, values_M, lengths_C, settings.gamma, settings.gae_lambda)
        for i, part in zip(kept, torch.split(gae.advantages, lengths_C.tolist()), strict=True):
            means[i] = float(part.mean())
        group = rollout_group(scoring, kept, [float(means[i] or 0.0) for i in kept], old_logps=old, ref_logps=ref)
        by_token = {"token_advantages": gae.advantages, "returns": gae.returns, "values": values_M}
        return group.with_columns(**by_token), means

    def _reward_metrics(
        self, scorings: Sequence[Scoring], logps: list[list[Tensor]], ref_logps: list[list[Tensor]]
    ) -> Sums:
        """Under TRL's names: what the KL took from a completion's reward, and the reward after it."""
        penalties, rewards = [], []
        for scoring, olds, refs in zip(scorings, logps, ref_logps, strict=True):
            for scored, kl in zip(scoring.scored, kl_of_samples(olds, refs), strict=True):
                penalties.append(-self.settings.kl_coefficient * kl)
                if scored.score is not None:
                    rewards.append(scored.score + penalties[-1])
        sums: Sums = {"objective/non_score_reward": (sum(penalties), len(penalties))}
        return sums | ({"objective/rlhf_reward": (sum(rewards), len(rewards))} if rewards else {})

    def loss(self, policy: Forward, batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        """A pass's share of the clipped policy loss and the value loss."""
        settings, columns = self.settings, batch.columns
        old_M = columns["old_logps"]
        out = policy(batch, entropy=True, temperature=columns["temperatures"] if self.tempered else None)
        weights_M = None
        if settings._corrected:
            weights_M = pg.importance_weights(old_M, columns["sampler_logps"], settings.weight_cap)
        each_M = torch.arange(len(old_M), device=old_M.device)  # every token has its own advantage
        gradient = pg.policy_gradient(
            out.logps, old_M, columns["token_advantages"], each_M,
            clip_low=settings.clip, clip_high=settings.clip, weights_M=weights_M,
        )  # fmt: skip
        value = ppo.value_loss(out.values, columns["values"], columns["returns"], settings.value_clip)
        policy_loss, value_loss = gradient.losses.sum(), value.losses.sum()
        tokens, moved_M = float(len(old_M)), out.logps.detach() - old_M
        return (policy_loss + settings.value_coefficient * value_loss) / total, {
            "entropy": (float(out.entropy.sum()), tokens),
            "loss/policy_avg": (float(policy_loss.detach()), tokens),
            "loss/value_avg": (float(value_loss.detach()), tokens),
            "policy/approxkl_avg": (0.5 * float((moved_M**2).sum()), tokens),
            "val/clipfrac_avg": (float(value.clipped.sum()), tokens),
            "clip_ratio/low_mean": (float(gradient.clipped_low.sum()), tokens),
            "clip_ratio/high_mean": (float(gradient.clipped_high.sum()), tokens),
            "ratio": (float(gradient.ratios.sum()), tokens),
        }


def _explained_variance(groups: Sequence[CompletionGroup]) -> float | None:
    """Share of the returns' variance that the values explain; None where there is none to explain."""
    if not groups:
        return None
    values_M, returns_M = (torch.cat([group.columns[name] for group in groups]) for name in ("values", "returns"))
    return ppo.explained_variance(values_M, returns_M)


def _whitened(groups: list[CompletionGroup]) -> list[CompletionGroup]:
    """The groups with token_advantages of mean 0 and deviation 1 over all of them."""
    if not groups:
        return groups
    advantages_M = ppo.whiten(torch.cat([group.columns["token_advantages"] for group in groups]))
    pieces = torch.split(advantages_M, [group.completion_tokens for group in groups])
    return [group.with_columns(token_advantages=piece) for group, piece in zip(groups, pieces, strict=True)]
