"""Samples of the policy's own, scored: what an on-policy method holds to get them.

Processes share the prompts out, and each gets the rollouts of all. Random numbers belong to (seed, step, the
prompt's place, sample), so that neither batches nor processes change what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.methods.rollouts import (
    Scoring,
    group_from_state,
    group_state,
    ratio_metrics,
    sample_metrics,
    score_samples,
)
from trimtab.methods.silence import ScoreWatch, tally
from trimtab.models.policy import Policy
from trimtab.rewards.base import Reward
from trimtab.rollout.logps import AT_ONE, read_off
from trimtab.rollout.sampler import Sampler, Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.rollout.vllm import VLLMSampler
from trimtab.rollout.vllm_server import VLLMServerSampler
from trimtab.training.accelerator import gather_items, share_of
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import PolicyContext
from trimtab.training.step import Sums

Item = TypeVar("Item")


def make_sampler(
    policy: Policy, sampling: Sampling, settings: TrainingSettings, processes: int, method: str
) -> Sampler:
    """What draws from the policy as `sampling` says, with the precision and token budget of the settings."""
    if sampling.engine == "transformers":
        return TransformersSampler(policy)
    if sampling.engine == "vllm-server":
        return VLLMServerSampler(policy, sampling.server, settings.pass_tokens)
    if processes > 1:
        raise TrimtabError(
            f"{method}: sampling.engine vllm runs in one process; use transformers, or vllm-server, in several."
        )
    return VLLMSampler(policy, sampling.vllm, settings.precision, settings.pass_tokens)


class Collector:
    """Draws samples of prompts, has them scored, and reads log-probabilities of them.

    method: its name in messages. reward: what scores. within_groups: whether a completion is compared with those of
    its own prompt only. tempered: whether what is optimised is the policy at each sample's own temperature.
    """

    def __init__(
        self,
        method: str,
        sampling: Sampling,
        context: PolicyContext,
        reward: Reward,
        within_groups: bool,
        tempered: bool,
    ) -> None:
        self.method, self.sampling, self.context, self.reward = method, sampling, context, reward
        self.tempered = tempered
        processes = context.accelerator.num_processes
        self.sampler = make_sampler(context.policy, sampling, context.settings, processes, method)
        self.watch = ScoreWatch(method, within_groups)

    # ---- samples

    def places(self, prompts: Sequence[CompletionGroup]) -> range:
        """Which of the prompts are this process's. TrimtabError where a process would have none."""
        acc = self.context.accelerator
        if len(prompts) < acc.num_processes:
            raise TrimtabError(
                f"{self.method}: {len(prompts)} prompts are too few for {acc.num_processes} processes to share."
            )
        return share_of(acc, len(prompts))

    def draw(self, prompts: Sequence[CompletionGroup], samples: int, step: int, last: bool) -> list[Scoring]:
        """This process's prompts, each with its samples and their scores. last: no more will be drawn.

        TrimtabError where the reward has nothing to say, in every process alike.
        """
        self.places(prompts)
        seeds = np.random.SeedSequence([self.context.settings.seed, step, 0, 0])
        scorings = self.score(
            prompts, samples, self.sampling, int(seeds.generate_state(1)[0]), self.context.train_records
        )
        tallies = [tally(scoring) for scoring in scorings]
        if self.context.accelerator.num_processes > 1:
            tallies = gather_object(tallies)
        self.watch.see(tallies, last=last)
        return scorings

    def score(
        self,
        prompts: Sequence[CompletionGroup],
        samples: int,
        sampling: Sampling,
        seed: int,
        records: Sequence[Record],
    ) -> list[Scoring]:
        """Samples of this process's share of the prompts, scored by the reward. records: where indices point."""
        places = share_of(self.context.accelerator, len(prompts))
        mine = [prompts[place] for place in places]
        with self.context.accelerator.autocast():
            drawn = self.sampler.sample(
                [group.prompt for group in mine], samples, sampling,
                seed=seed, stops=self.context.stops, places=places,
            )  # fmt: skip
        return score_samples(self.reward, self.context.chat, mine, drawn, records)

    # ---- log-probabilities

    def read(
        self, model: Policy, scorings: Sequence[Scoring], *names: str, tempered: bool | None = None
    ) -> dict[str, list[list[Tensor]]]:
        """A model's outputs of the samples, such as logps: for each group and sample a tensor of its tokens.

        tempered: at each sample's own temperature; None: where that is what is optimised.
        """
        by_temperature = self.tempered if tempered is None else tempered
        groups = [
            CompletionGroup(scoring.group.prompt, tuple(s.tokens for s in scoring.samples)) for scoring in scorings
        ]
        temperatures = None
        if by_temperature:
            temperatures = [[s.temperature for s in scoring.samples] for scoring in scorings]
        context = self.context
        with context.accelerator.autocast():
            return read_off(
                model, groups, temperatures, context.settings.pass_tokens, context.accelerator.device, names
            )

    def sampled_logps(self, scorings: Sequence[Scoring]) -> list[list[Tensor]]:
        """The policy's log-probabilities of its samples, as it was when it drew them."""
        return [
            [torch.tensor(s.tempered_logps if self.tempered else s.policy_logps) for s in scoring.samples]
            for scoring in scorings
        ]

    def read_reference(
        self, reference: Policy, scorings: Sequence[Scoring]
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The reference's log-probabilities of the samples at the temperature that is optimised, and at 1."""
        if not self.tempered:
            logps = self.read(reference, scorings, "logps")["logps"]
            return logps, logps
        both = self.read(reference, scorings, "logps", AT_ONE)
        return both["logps"], both[AT_ONE]

    def metrics(self, scorings: Sequence[Scoring], at_one: list[list[Tensor]]) -> Sums:
        """What was sampled, and how far from the reference, whose log-probabilities at temperature 1 these are."""
        return sample_metrics(scorings) | ratio_metrics(scorings, at_one)

    # ---- processes

    def gather_rollouts(
        self, prompts: Sequence[CompletionGroup], rollouts: Sequence[CompletionGroup | None]
    ) -> list[CompletionGroup]:
        """The rollouts of every process, in the prompts' order. rollouts: one for each prompt of this process."""
        if self.context.accelerator.num_processes == 1:
            return [group for group in rollouts if group is not None]
        states = [None if group is None else group_state(group) for group in rollouts]
        return [group_from_state(state) for state in self.gather_in_order(prompts, states) if state is not None]

    def gather_in_order(self, prompts: Sequence[CompletionGroup], items: list[Item]) -> list[Item]:
        """Every process's items, one for each prompt, in the prompts' order."""
        acc = self.context.accelerator
        return gather_items(acc, share_of(acc, len(prompts)), items)
