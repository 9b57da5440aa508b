"""What GRPO and PPO share: sampling from the policy, scoring, the reference, and validation on fresh samples."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from accelerate.utils import gather_object
from pydantic import Field, model_validator
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.settings import LEARNING_RATE, ROWS, SEVERAL, STEPS, WEIGHT
from trimtab.errors import TrimtabError
from trimtab.losses.preference import dpo
from trimtab.methods.dpo import pair_metrics
from trimtab.methods.rollouts import (
    Rollout,
    Scoring,
    Shaped,
    own_metrics,
    ratio_metrics,
    sample_metrics,
    score_samples,
    table_rows,
)
from trimtab.methods.silence import ScoreWatch, tally, why
from trimtab.models.lora import frozen_copy
from trimtab.models.policy import load_policy
from trimtab.notices import warn
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import Rewards
from trimtab.rollout.logps import read_off
from trimtab.rollout.sampler import Sampler, Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.rollout.vllm import VLLMSampler
from trimtab.training.method import Sums
from trimtab.training.schedule import TrainingSettings, total_steps
from trimtab.training.stage_method import Prepared, StageMethod


class OnPolicySettings(TrainingSettings):
    """Of a method that trains on samples of its own."""

    learning_rate: float = Field(5e-6, gt=0, le=LEARNING_RATE)
    batch_size: int = Field(8, gt=0, le=SEVERAL)
    """Prompts of a batch."""
    samples: int = Field(gt=0, le=SEVERAL)
    """Completions of each prompt."""
    rewards: Rewards = ()
    """What is optimised: the weighted sum of these."""
    updates_per_batch: int = Field(1, gt=0, le=STEPS)
    """Optimizer steps taken on the same samples."""
    kl_coefficient: float = Field(ge=0, le=WEIGHT)
    """λ, or β, of the KL to the reference: how dear it is to leave it."""
    correction: Literal["none", "token", "tempered"] = "token"
    """What is corrected of temperatures ≠ 1, and of another engine's arithmetic. none: as the report does;
    token: truncated weights; tempered: π_T is optimised, and an engine's samples are weighed by token too."""
    weight_cap: float = Field(2.0, gt=0)
    """No token weighs more than this, where correction weighs tokens."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    mask_cut: bool = False
    """Whether completions cut at the cap are left out of the loss."""
    validation_prompts: int = Field(64, ge=0, le=ROWS)
    """How many held-out prompts are sampled at each evaluation; 0 for none."""

    @model_validator(mode="after")
    def _warm(self) -> Self:
        if any(t <= 0 for t in self.sampling.temperatures):
            raise ValueError("training samples need temperatures above 0: greedy ones have no gradient")
        return self

    @property
    def _corrected(self) -> bool:
        """Whether tokens are weighed by π/μ: where the sampler's distribution μ is not the one optimised."""
        if self.sampling.engine != "transformers":
            return self.correction != "none"
        return self.correction == "token" and any(t != 1 for t in self.sampling.temperatures)


def make_sampler(policy: Any, settings: Any, processes: int, method: str) -> Sampler:
    """What draws from the policy as the settings say (sampling, precision, token_budget)."""
    if settings.sampling.engine != "vllm":
        return TransformersSampler(policy)
    if processes > 1:
        raise TrimtabError(
            f"{method}: sampling.engine vllm runs in one process; use engine transformers in several."
        )
    return VLLMSampler(policy, settings.sampling.vllm, settings.precision, settings.token_budget)


class OnPolicyMethod(StageMethod):
    """A method that samples, scores, and trains on what it sampled; a subclass says with which advantages
    (`_shape`) and which loss."""

    best_metric = "rewards/accuracies"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "none"
    counts_down = True
    validation_completions = "pair"
    name: ClassVar[str]
    rollout: ClassVar[type[Rollout]] = Rollout
    models_read: ClassVar[int] = 1
    """How many models read each batch of samples before it is trained on; the reference always does."""
    within_groups: ClassVar[bool] = True
    """Whether a completion is compared with those of its own prompt only."""
    settings: OnPolicySettings

    def __init__(self, settings: Any, prepared: Prepared) -> None:
        super().__init__(settings, prepared)
        if prepared.reward is None:
            raise TrimtabError(
                f"{self.name}: no reward. Name one in 'rewards', such as {{kind: function, path: 'my.py:f'}}."
            )
        self.reward = prepared.reward
        if not self._has_pairs:
            self.best_metric = "reward" if settings.validation_prompts and prepared.validation else "none"
        self.steps_per_batch = settings.updates_per_batch
        self.tempered = settings.correction == "tempered"
        self.by_vllm = settings.sampling.engine == "vllm"
        self.sampler = self._make_sampler()
        self.reference_logps = prepared.reference_logps(prepared.validation) if self._has_pairs else {}
        self.reference = frozen_copy(prepared.policy)
        self.by_group: dict[int, Any] = {}
        self.batch: list[Any] = []
        self.total_completions = self.total_tokens = 0
        self.pending: Sums = {}
        self.table: list[dict[str, Any]] = []
        self.watch = ScoreWatch(self.name, self.within_groups)

    @property
    def _has_pairs(self) -> bool:
        return any(len(g.completions) > 1 for g in self.prepared.validation)

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Any:
        """A model with a length encoding counts down from its own target."""
        return load_policy(source, settings, settings.seed).held_to_target()

    def _make_sampler(self) -> Sampler:
        return make_sampler(self.prepared.policy, self.settings, self.prepared.accelerator.num_processes, self.name)

    # ---- rollouts

    def step_groups(self, groups: Sequence[CompletionGroup], step: int) -> Sequence[CompletionGroup]:
        if step % self.settings.updates_per_batch == 0:
            self._hold(self._collect(groups, step))
        self._count(self.batch)
        return [rollout.group for rollout in self.batch]

    def _hold(self, rollouts: list[Any]) -> None:
        self.batch = rollouts
        self.by_group = {id(rollout.group): rollout for rollout in rollouts}

    def _count(self, rollouts: Sequence[Any]) -> None:
        self.total_completions = sum(len(r.advantages) for r in rollouts)
        self.total_tokens = sum(r.group.completion_tokens for r in rollouts)

    def _collect(self, groups: Sequence[CompletionGroup], step: int) -> list[Any]:
        """Samples, scores and shapes: the prompts' rollouts, fewer where rewards are missing. Processes share
        the prompts out, and each gets all rollouts."""
        acc = self.prepared.accelerator
        if len(groups) < acc.num_processes:
            raise TrimtabError(
                f"{self.name}: {len(groups)} prompts are too few for {acc.num_processes} processes to share."
            )
        places = range(acc.process_index, len(groups), acc.num_processes)
        scorings = self._sample(groups, places, step)
        self._watch(scorings, step)
        shaped = self._shape(scorings)
        self.pending |= own_metrics(self.reward, self.pending)
        self.table = table_rows(scorings, shaped, self.prepared.train_records)
        found = [(place, one.rollout) for place, one in zip(places, shaped, strict=True) if one.rollout is not None]
        if acc.num_processes > 1:
            everyones = gather_object([(place, rollout.state()) for place, rollout in found])
            found = [(place, self.rollout.of(state)) for place, state in sorted(everyones, key=itemgetter(0))]
        return self._of_batch([rollout for _, rollout in found])

    def _watch(self, scorings: Sequence[Scoring], step: int) -> None:
        """TrimtabError where the reward has nothing to say, in every process alike."""
        tallies = [tally(one) for one in scorings]
        if self.prepared.accelerator.num_processes > 1:
            tallies = gather_object(tallies)
        self.watch.see(tallies, last=self._is_last(step))

    def _is_last(self, step: int) -> bool:
        """Whether no batch is drawn after that of this step."""
        settings = self.settings
        per_batch = 1 if settings.max_steps else settings.updates_per_batch
        steps = total_steps(settings, len(self.prepared.train)) * per_batch
        return step + settings.updates_per_batch >= steps

    @abstractmethod
    def _shape(self, scorings: Sequence[Scoring]) -> list[Shaped]:
        """This process's groups with their advantages; leaves their metrics in `pending`."""

    def _of_batch(self, rollouts: list[Any]) -> list[Any]:
        """What needs the rollouts of all processes is done to them."""
        return rollouts

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

    def _logps(self, model: Any, scorings: Sequence[Scoring], tempered: bool) -> list[list[Tensor]]:
        """tempered: each sample's at its own temperature, else at 1."""
        return self._read(model, scorings, tempered, "logps")["logps"]

    def _read(
        self, model: Any, scorings: Sequence[Scoring], tempered: bool, *names: str
    ) -> dict[str, list[list[Tensor]]]:
        """A model's outputs of the samples, by token: a tensor a sample."""
        groups = [CompletionGroup(one.group.prompt, tuple(s.tokens for s in one.samples)) for one in scorings]
        temperatures = [[s.temperature for s in one.samples] for one in scorings] if tempered else None
        prepared = self.prepared
        with prepared.accelerator.autocast():
            return read_off(
                model, groups, temperatures, self.settings.token_budget, prepared.accelerator.device, names
            )

    def _sampled_metrics(self, scorings: Sequence[Scoring], references: list[list[Tensor]]) -> Sums:
        """references: the reference's log-probabilities at the temperature that is optimised."""
        at_one = self._logps(self.reference, scorings, False) if self.tempered else references
        return sample_metrics(scorings) | ratio_metrics(scorings, at_one)

    def _stored(self, batch: PackedBatch, name: str) -> Tensor:
        """What the batch's rollouts hold of each of its tokens: [M]."""
        held = [getattr(self.by_group[id(group)], name) for group in batch.groups]
        return torch.cat(held).to(batch.target.device)

    def step_metrics(self) -> Sums:
        found, self.pending = self.pending, {}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Once: a batch that several logged steps train on is written with the first."""
        found, self.table = self.table, []
        return found

    def state(self) -> Mapping[str, Any]:
        kept = {"watch": self.watch.state()}
        if self.settings.updates_per_batch == 1:
            return kept  # the next step samples anew
        return kept | {"batch": [rollout.state() for rollout in self.batch], "table": self.table}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.watch.load_state(state.get("watch", {}))
        if "batch" in state:
            self._hold([self.rollout.of(one) for one in state["batch"]])
        # Of fixed rollouts drawn again: the metrics were counted by the first step.
        self.pending, self.table = {}, state.get("table", [])

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
        groups = [self._asked(group) for group in prepared.validation[: self.settings.validation_prompts]]
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
        sums |= own_metrics(self.reward, sums)
        if "reward" not in sums:
            self._tell_unscored(self.reward, scorings)
            if self.best_metric == "reward":
                sums["reward"] = (math.nan, 1)  # nothing to choose by this time, and the run goes on
        if prepared.judge is not None:
            judged = self._of_all(
                places, score_samples(prepared.judge, prepared.chat, mine, samples, prepared.validation_records)
            )
            scores = [one.score for s in judged for one in s.scored if one.score is not None]
            if scores:
                sums["judge"] = (sum(scores), len(scores))
            else:
                self._tell_unscored(prepared.judge, judged)
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def _tell_unscored(self, by: Reward, scorings: Sequence[Scoring]) -> None:
        """TrimtabError where this is the reward that chooses what is best, and it never gave a score."""
        found = [tally(one) for one in scorings]
        count = sum(one.completions for one in found)
        line = f"{by.name} gave none of the {count} validation completions a score ({why(found)})"
        if by is self.reward and self.best_metric == "reward" and not self.watch.seen["batches"]:
            raise TrimtabError(f"{self.name}: reward {line}. Mend it: it chooses the best weights.")
        warn(f"{line}.", about=f"validation without a score by {by.name}")

    def _asked(self, group: CompletionGroup) -> CompletionGroup:
        """A held-out group under the prompt that is asked with: where the template opens answers, written ones that
        are not opened have another."""
        chat = self.prepared.chat
        if not getattr(chat, "opening", ""):
            return group
        asked = chat.encode(replace(self.prepared.validation_records[group.index], completions=(), labels=None))
        return replace(group, prompt=asked.prompt) if isinstance(asked, CompletionGroup) else group

    def _of_all(self, places: range, scorings: list[Scoring]) -> list[Scoring]:
        """Every process's, in the prompts' order: each prompt is sampled, and its score paid for, once."""
        if self.prepared.accelerator.num_processes == 1:
            return scorings
        everyones = gather_object(list(zip(places, scorings, strict=True)))
        return [one for _, one in sorted(everyones, key=itemgetter(0))]
