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
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from trimtab.advantages import ADVANTAGES
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.errors import TrimtabError
from trimtab.losses import policy_gradient as pg
from trimtab.losses.preference import dpo
from trimtab.models.lora import frozen_copy
from trimtab.models.policy import load_policy
from trimtab.rewards.settings import RewardSettings
from trimtab.rollout.logps import logps_of
from trimtab.rollout.sampler import Sampler, Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.rollout.vllm import VLLMSampler
from trimtab.training.dpo import pair_metrics
from trimtab.training.method import Sums
from trimtab.training.rollouts import (
    DIFFERENCE,
    Rollout,
    Scoring,
    engine_metrics,
    group_metrics,
    ratio_metrics,
    sample_metrics,
    score_samples,
    shape,
    table_rows,
)
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import Prepared, StageMethod


class GRPOSettings(TrainingSettings):
    learning_rate: float = Field(5e-6, gt=0)
    batch_size: int = Field(8, gt=0)
    """Prompts of a batch."""
    samples: int = Field(4, ge=2)
    """Completions of each prompt; a baseline needs two."""
    rewards: tuple[RewardSettings, ...] = ()
    """What is optimised: the weighted sum of these."""
    objective: str = "leave_one_out"
    normalisation: pg.Normalisation = "sum"
    ratio: pg.RatioLevel = "token"
    clip_low: float | None = Field(0.2, gt=0, lt=1)
    clip_high: float | None = Field(0.2, gt=0)
    updates_per_batch: int = Field(1, gt=0)
    """Optimizer steps taken on the same samples."""
    kl: Literal["reward", "k2", "exact", "k3"] = "reward"
    kl_coefficient: float = Field(0.1, ge=0)
    """λ of Eq. 6."""
    correction: Literal["none", "token", "tempered"] = "token"
    """Of temperatures ≠ 1, and of another engine's arithmetic. none: as the report does; token: truncated
    weights; tempered: π_T is optimised, and an engine's samples are weighed by token too."""
    weight_cap: float = Field(2.0, gt=0)
    sampling: Sampling = Sampling()
    rollouts: Literal["on_policy", "fixed"] = "on_policy"
    """fixed: fixed_prompts prompts are sampled once, before training, and trained on in epochs."""
    fixed_prompts: int = Field(50, gt=0)
    mask_cut: bool = False
    """Whether completions cut at the cap are left out of the loss."""
    validation_prompts: int = Field(64, ge=0)
    """How many held-out prompts are sampled at each evaluation; 0 for none."""

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ADVANTAGES:
            raise ValueError(f"unknown objective {value!r}; known: {', '.join(ADVANTAGES)}")
        return value

    @model_validator(mode="after")
    def _honest(self) -> GRPOSettings:
        if any(t <= 0 for t in self.sampling.temperatures):
            raise ValueError("training samples need temperatures above 0: greedy ones have no gradient")
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

    @property
    def _corrected(self) -> bool:
        """Whether tokens are weighed by π/μ: where the sampler's distribution μ is not the one optimised."""
        if self.sampling.engine != "transformers":
            return self.correction != "none"
        return self.correction == "token" and any(t != 1 for t in self.sampling.temperatures)


class GRPO(StageMethod):
    best_metric = "rewards/accuracies"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "none"
    validation_completions = "pair"
    version = 1
    settings: GRPOSettings

    def __init__(self, settings: GRPOSettings, prepared: Prepared) -> None:
        super().__init__(settings, prepared)
        if prepared.reward is None:
            raise TrimtabError("grpo: no reward. Name one in 'rewards', such as {kind: function, path: 'my.py:f'}.")
        self.reward = prepared.reward
        if not any(len(g.completions) > 1 for g in prepared.validation):
            self.best_metric = "reward" if settings.validation_prompts and prepared.validation else "none"
        self.steps_per_batch = settings.updates_per_batch
        self.tempered = settings.correction == "tempered"
        self.by_vllm = settings.sampling.engine == "vllm"
        self.sampler = self._make_sampler()
        self.reference_logps = prepared.reference_logps(prepared.validation) if self._has_pairs else {}
        self.reference = frozen_copy(prepared.policy)
        self.by_group: dict[int, Rollout] = {}
        self.batch: list[Rollout] = []
        self.total_completions = self.total_tokens = 0
        self.pending: dict[str, tuple[float, float]] = {}
        self.table: list[dict[str, Any]] = []

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Any:
        return load_policy(source, settings, settings.seed).held_to_target()

    @property
    def _has_pairs(self) -> bool:
        return any(len(g.completions) > 1 for g in self.prepared.validation)

    def _make_sampler(self) -> Sampler:
        policy, settings = self.prepared.policy, self.settings
        if not self.by_vllm:
            return TransformersSampler(policy)
        if self.prepared.accelerator.num_processes > 1:
            raise TrimtabError(
                "grpo: sampling.engine vllm runs in one process; use engine transformers in several."
            )
        return VLLMSampler(policy, settings.sampling.vllm, settings.precision, settings.token_budget)

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
            chosen = [self.by_group[id(group)] for group in groups]
            self._count(chosen)
            return groups
        if step % self.settings.updates_per_batch == 0:
            self._hold(self._collect(groups, step))
        self._count(self.batch)
        trained = self.batch
        if self.prepared.accelerator.num_processes == 1 and not self._loss_has_kl:
            trained = [r for r in trained if any(r.advantages)]  # the others' gradient is 0
        return [rollout.group for rollout in trained]

    @property
    def _loss_has_kl(self) -> bool:
        return self.settings.kl != "reward" and self.settings.kl_coefficient > 0

    def _hold(self, rollouts: list[Rollout]) -> None:
        self.batch = rollouts
        self.by_group = {id(rollout.group): rollout for rollout in rollouts}

    def _count(self, rollouts: Sequence[Rollout]) -> None:
        self.total_completions = sum(len(r.advantages) for r in rollouts)
        self.total_tokens = sum(r.group.completion_tokens for r in rollouts)

    def _collect(self, groups: Sequence[CompletionGroup], step: int) -> list[Rollout]:
        """Samples, scores and shapes: the prompts' rollouts, fewer where rewards are missing. Processes share
        the prompts out, and each gets all rollouts."""
        settings, acc = self.settings, self.prepared.accelerator
        if len(groups) < acc.num_processes:
            raise TrimtabError(
                f"grpo: {len(groups)} prompts are too few for {acc.num_processes} processes to share."
            )
        places = range(acc.process_index, len(groups), acc.num_processes)
        scorings = self._sample(groups, places, step)
        references = self._logps(self.reference, scorings, self.tempered)
        drawn_from = self._policy_logps(scorings)
        old = drawn_from if self.tempered else [[torch.tensor(s.policy_logps) for s in o.samples] for o in scorings]
        kl = settings.kl_coefficient if settings.kl == "reward" else 0.0
        shaped = [
            shape(one, olds, refs, settings.objective, kl, settings.mask_cut)
            for one, olds, refs in zip(scorings, old, references, strict=True)
        ]
        untempered = self._logps(self.reference, scorings, False) if self.tempered else references
        self.pending = (
            sample_metrics(scorings) | group_metrics(scorings, shaped) | ratio_metrics(scorings, untempered)
        )
        if self.by_vllm:
            self.pending |= engine_metrics(scorings, drawn_from)
        self.table = table_rows(scorings, shaped, self.prepared.train_records)
        found = [(place, one.rollout) for place, one in zip(places, shaped, strict=True) if one.rollout is not None]
        if acc.num_processes > 1:
            everyones = gather_object([(place, rollout.state()) for place, rollout in found])
            found = [(place, Rollout.of(state)) for place, state in sorted(everyones, key=itemgetter(0))]
        return [rollout for _, rollout in found]

    def _sample(self, groups: Sequence[CompletionGroup], places: range, step: int) -> list[Scoring]:
        """Of the groups at `places`."""
        prepared, settings = self.prepared, self.settings
        mine = [groups[i] for i in places]
        seeds = np.random.SeedSequence([settings.seed, step, 0, 0])
        with prepared.accelerator.autocast():
            samples = self.sampler.sample(
                [group.prompt for group in mine], settings.samples, settings.sampling,
                seed=int(seeds.generate_state(1)[0]), stops=prepared.stops, places=places,
            )  # fmt: skip
        return score_samples(self.reward, prepared.chat, mine, samples, prepared.train_records)

    def _policy_logps(self, scorings: Sequence[Scoring]) -> list[list[Tensor]]:
        """The policy's log-probabilities of its samples, each at its own temperature. Those of another engine
        are known at temperature 1 only."""
        if self.by_vllm and any(s.temperature != 1 for one in scorings for s in one.samples):
            return self._logps(self.prepared.policy, scorings, True)
        return [
            [torch.tensor(s.policy_logps if self.by_vllm else s.logps) for s in one.samples] for one in scorings
        ]

    def _logps(self, model: Any, scorings: Sequence[Scoring], tempered: bool) -> list[list[Tensor]]:
        """tempered: each sample's at its own temperature, else at 1."""
        groups = [CompletionGroup(one.group.prompt, tuple(s.tokens for s in one.samples)) for one in scorings]
        temperatures = [[s.temperature for s in one.samples] for one in scorings] if tempered else None
        with self.prepared.accelerator.autocast():
            return logps_of(
                model, groups, temperatures, self.settings.token_budget, self.prepared.accelerator.device
            )

    def step_metrics(self) -> Sums:
        found, self.pending = self.pending, {}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Once: a batch that several logged steps train on is written with the first."""
        found, self.table = self.table, []
        return found

    def state(self) -> Mapping[str, Any]:
        if self.settings.rollouts == "fixed":
            return {"table": self.table}  # the rollouts are drawn again, the same
        if self.settings.updates_per_batch == 1:
            return {}  # the next step samples anew
        return {"batch": [rollout.state() for rollout in self.batch], "table": self.table}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "batch" in state:
            self._hold([Rollout.of(one) for one in state["batch"]])
        # Of fixed rollouts drawn again: the metrics were counted by the first step.
        self.pending, self.table = {}, state.get("table", [])

    # ---- the loss

    def total(self, groups: Sequence[CompletionGroup]) -> float:
        return pg.normaliser(
            self.settings.normalisation,
            self.total_completions,
            self.total_tokens,
            self.settings.sampling.max_new_tokens,
        )

    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        settings, device = self.settings, batch.target.device
        rollouts = [self.by_group[id(group)] for group in batch.groups]

        def gathered(name: str) -> Tensor:
            return torch.cat([getattr(rollout, name) for rollout in rollouts]).to(device)

        advantages_C = torch.tensor([a for r in rollouts for a in r.advantages], device=device)
        sampler_M, stored_M, ref_M = gathered("sampler_logps"), gathered("old_logps"), gathered("ref_logps")
        temperature = gathered("temperatures") if self.tempered else None
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

    # ---- validation

    def evaluate_pass(self, policy: Callable[..., Any], batch: PackedBatch) -> Sums:
        """Preference accuracy of the log-ratio to the reference, which is DPO's implicit reward at β = 1."""
        reference_M = torch.cat([self.reference_logps[id(group)] for group in batch.groups])
        pairs = batch.sum_by_completion(policy(batch).logps).view(-1, 2)
        references = batch.sum_by_completion(reference_M.to(pairs.device)).view(-1, 2)
        out = dpo(*pairs.unbind(1), *references.unbind(1), beta=1.0)
        return pair_metrics(out.chosen_rewards, out.rejected_rewards, *pairs.unbind(1))

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        found = super().evaluate(policy) if self._has_pairs else {}
        return found | self._evaluate_samples()

    def _evaluate_samples(self) -> dict[str, float]:
        """One sample at temperature 1 of each held-out prompt, the same uniforms at every evaluation."""
        prepared, acc = self.prepared, self.prepared.accelerator
        groups = prepared.validation[: self.settings.validation_prompts]
        if not groups:
            return {}
        sampling = self.settings.sampling.model_copy(update={"temperatures": (1.0,)})
        places = range(acc.process_index, len(groups), acc.num_processes)
        mine = [groups[i] for i in places]
        with torch.no_grad(), acc.autocast():
            samples = self.sampler.sample(
                [group.prompt for group in mine], 1, sampling,
                seed=self.settings.seed, stops=prepared.stops, places=places,
            )  # fmt: skip
        scorings = self._of_all(
            places, score_samples(self.reward, prepared.chat, mine, samples, prepared.validation_records)
        )
        sums = sample_metrics(scorings) | ratio_metrics(scorings, self._logps(self.reference, scorings, False))
        if prepared.judge is not None:
            judged = self._of_all(
                places, score_samples(prepared.judge, prepared.chat, mine, samples, prepared.validation_records)
            )
            scores = [one.score for s in judged for one in s.scored if one.score is not None]
            if scores:
                sums["judge"] = (sum(scores), len(scores))
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def _of_all(self, places: range, scorings: list[Scoring]) -> list[Scoring]:
        """Every process's, in the prompts' order: each prompt is sampled, and its score paid for, once."""
        if self.prepared.accelerator.num_processes == 1:
            return scorings
        everyones = gather_object(list(zip(places, scorings, strict=True)))
        return [one for _, one in sorted(everyones, key=itemgetter(0))]
