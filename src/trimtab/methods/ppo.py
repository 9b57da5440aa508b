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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.settings import LEARNING_RATE, SEVERAL, STEPS, WEIGHT
from trimtab.losses import policy_gradient as pg
from trimtab.losses import ppo
from trimtab.methods.on_policy import OnPolicyMethod, OnPolicySettings
from trimtab.methods.rollouts import Rollout, Scoring, Shaped, engine_metrics
from trimtab.models.policy import VALUE_HEAD
from trimtab.training.method import Sums
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import Prepared

HEAD_RATE = 10.0
"""The value head's learning rate as a multiple of the policy's, where none is given."""


class PPOSettings(OnPolicySettings):
    samples: int = Field(1, gt=0, le=SEVERAL)
    """Completions of each prompt: the value is the baseline, so one will do."""
    updates_per_batch: int = Field(4, gt=0, le=STEPS)
    kl_coefficient: float = Field(0.05, ge=0, le=WEIGHT)
    """β of the KL penalty in each token's reward."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of a later token's reward."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantages; 1 does not lean on the value at all."""
    clip: float | None = Field(0.2, gt=0, lt=1)
    """ε of the policy's ratio."""
    value_clip: float | None = Field(0.2, gt=0)
    """How far the value moves on one batch at most, in units of the reward."""
    value_coefficient: float = Field(0.1, ge=0, le=WEIGHT)
    """Weight of the value's loss beside the policy's."""
    value_learning_rate: float | None = Field(None, gt=0, le=LEARNING_RATE)
    """The learning rate of the value head, on the same schedule; None: ten times learning_rate, as it starts
    from nothing."""
    whiten: bool = True
    """Advantages of a batch, all processes together, to mean 0 and deviation 1."""


@dataclass
class ValuedRollout(Rollout):
    """advantages: the mean over its tokens of each completion's, before whitening, for the table.

    token_advantages, returns, values: float32 [M]; values of the policy that sampled.
    """

    tensors: ClassVar[tuple[str, ...]] = (*Rollout.tensors, "token_advantages", "returns", "values")

    token_advantages: Tensor
    returns: Tensor
    values: Tensor


class PPO(OnPolicyMethod):
    name = "ppo"
    rollout = ValuedRollout
    models_read = 2  # the policy too, for its values
    within_groups = False  # the baseline is the value head's
    version = 1
    settings: PPOSettings

    def __init__(self, settings: PPOSettings, prepared: Prepared) -> None:
        super().__init__(settings, prepared)
        head = settings.value_learning_rate
        self.rates = {VALUE_HEAD: HEAD_RATE if head is None else head / settings.learning_rate}

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Any:
        policy = super().load(source, settings)
        policy.add_value_head()
        return policy

    # ---- rollouts

    def _shape(self, scorings: Sequence[Scoring]) -> list[Shaped]:
        read = self._read(self.prepared.policy, scorings, self.tempered, "logps", "values")
        references = self._logps(self.reference, scorings, self.tempered)
        shaped = [
            self._rollout(one, old, refs, values)
            for one, old, refs, values in zip(scorings, read["logps"], references, read["values"], strict=True)
        ]
        made = [one.rollout for one in shaped if one.rollout is not None]
        self.pending = self._sampled_metrics(scorings, references)
        self.pending |= {"groups_dropped": (len(shaped) - len(made), len(shaped))}
        self.pending |= self._reward_metrics(scorings, read["logps"], references)
        if self.tempered or all(s.temperature == 1 for one in scorings for s in one.samples):
            self.pending |= engine_metrics(scorings, read["logps"])
        elif self.by_vllm:
            self.pending |= engine_metrics(scorings, self._logps(self.prepared.policy, scorings, True))
        return shaped

    def _rollout(
        self, one: Scoring, old: Sequence[Tensor], ref_logps: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Shaped:
        """A group's samples that have a score, with advantages and returns. The lists: a tensor a sample."""
        settings = self.settings
        kept = [
            i
            for i, scored in enumerate(one.scored)
            if scored.score is not None and not (settings.mask_cut and one.samples[i].finish == "cap")
        ]
        means: list[float | None] = [None] * len(one.samples)
        if not kept:
            return Shaped(None, tuple(means), False)
        lengths_C = torch.tensor([len(one.samples[i].tokens) for i in kept])
        scores_C = torch.tensor([one.scored[i].score for i in kept])
        old_M, ref_M, values_M = (torch.cat([part[i] for i in kept]) for part in (old, ref_logps, values))
        rewards_M = ppo.token_rewards(scores_C, old_M, ref_M, lengths_C, settings.kl_coefficient)
        found = ppo.gae(rewards_M, values_M, lengths_C, settings.gamma, settings.gae_lambda)
        for i, part in zip(kept, torch.split(found.advantages, lengths_C.tolist()), strict=True):
            means[i] = float(part.mean())
        rollout = ValuedRollout.of_samples(
            one, kept, [float(means[i] or 0.0) for i in kept], old, ref_logps,
            token_advantages=found.advantages, returns=found.returns, values=values_M,
        )  # fmt: skip
        return Shaped(rollout, tuple(means), False)

    def _reward_metrics(
        self, scorings: Sequence[Scoring], logps: list[list[Tensor]], references: list[list[Tensor]]
    ) -> Sums:
        """Under TRL's names: what the KL took from a completion's reward, and the reward after it."""
        penalties, rewards = [], []
        for one, olds, refs in zip(scorings, logps, references, strict=True):
            for scored, old, ref in zip(one.scored, olds, refs, strict=True):
                penalties.append(-self.settings.kl_coefficient * float((old.double() - ref.double()).sum()))
                if scored.score is not None:
                    rewards.append(scored.score + penalties[-1])
        found: Sums = {"objective/non_score_reward": (sum(penalties), len(penalties))}
        return found | ({"objective/rlhf_reward": (sum(rewards), len(rewards))} if rewards else {})

    def _of_batch(self, rollouts: list[Any]) -> list[Any]:
        if not rollouts:
            return rollouts
        returns_M = torch.cat([r.returns for r in rollouts])
        explained = ppo.explained_variance(torch.cat([r.values for r in rollouts]), returns_M)
        if explained is not None:
            self.pending |= {"val/explained_variance": (explained, 1.0)}
        if self.settings.whiten:
            advantages_M = ppo.whiten(torch.cat([r.token_advantages for r in rollouts]))
            pieces = torch.split(advantages_M, [r.group.completion_tokens for r in rollouts])
            for rollout, piece in zip(rollouts, pieces, strict=True):
                rollout.token_advantages = piece
        return rollouts

    # ---- the loss

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        """Tokens of the whole step: of policy and value alike, as in TRL."""
        return self.total_tokens

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        settings = self.settings
        old_M, advantages_M = self._stored(batch, "old_logps"), self._stored(batch, "token_advantages")
        old_values_M, returns_M = self._stored(batch, "values"), self._stored(batch, "returns")
        out = policy(
            batch, entropy=True, temperature=self._stored(batch, "temperatures") if self.tempered else None
        )
        weights_M = None
        if settings._corrected:
            weights_M = pg.importance_weights(old_M, self._stored(batch, "sampler_logps"), settings.weight_cap)
        each_M = torch.arange(len(old_M), device=old_M.device)  # every token has its own advantage
        found = pg.policy_gradient(
            out.logps, old_M, advantages_M, each_M,
            clip_low=settings.clip, clip_high=settings.clip, weights_M=weights_M,
        )  # fmt: skip
        value = ppo.value_loss(out.values, old_values_M, returns_M, settings.value_clip)
        policy_loss, value_loss = found.losses.sum(), value.losses.sum()
        tokens, moved_M = float(len(old_M)), out.logps.detach() - old_M
        return (policy_loss + settings.value_coefficient * value_loss) / total, {
            "entropy": (float(out.entropy.sum()), tokens),
            "loss/policy_avg": (float(policy_loss.detach()), tokens),
            "loss/value_avg": (float(value_loss.detach()), tokens),
            "policy/approxkl_avg": (0.5 * float((moved_M**2).sum()), tokens),
            "val/clipfrac_avg": (float(value.clipped.sum()), tokens),
            "clip_ratio/low_mean": (float(found.clipped_low.sum()), tokens),
            "clip_ratio/high_mean": (float(found.clipped_high.sum()), tokens),
            "ratio": (float(found.ratios.sum()), tokens),
        }
