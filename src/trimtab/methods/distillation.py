"""On-policy distillation: a student learns a teacher's distribution, on completions of its own and of the data.

Generalised knowledge distillation (GKD), Agarwal et al. 2024, arXiv 2306.13649, Algorithm 1. For every token of a
completion the whole distribution is compared, by losses/distillation.py's divergence; nothing is differentiated
through the sampling. With own_share 1 and beta 1 it is the reverse KL by token on the student's samples.

Where we depart: the choice between an own sample and the data's completion is drawn for each prompt, where the
paper draws it for each batch; its expectation is the same, and a step's gradient varies less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from trimtab.data.chat import load_tokenizer
from trimtab.data.groups import CompletionGroup, PackedBatch, total_completion_tokens
from trimtab.errors import TrimtabError
from trimtab.losses.distillation import generalised_jsd
from trimtab.methods.collector import make_sampler
from trimtab.methods.distillation_settings import DistillationSettings
from trimtab.models.kinds import check_model_source
from trimtab.models.loading import load_policy
from trimtab.models.lora import hash_model
from trimtab.models.settings import trusting
from trimtab.rollout.sampler import Sampling
from trimtab.training.accelerator import gather_items, share_of
from trimtab.training.stage_method import PolicyContext, StageMethod, TextFormat
from trimtab.training.step import Forward, Step, Sums

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Distillation(StageMethod[DistillationSettings]):
    """Lowers the divergence from the teacher, token by token, on the student's samples and the data's
    completions."""

    best_metric = "loss"
    best_is: Literal["highest", "lowest"] = "lowest"
    completions = "first"
    version = 1

    def __init__(self, settings: DistillationSettings, context: PolicyContext) -> None:
        super().__init__(settings, context)
        self.teacher = load_policy(teacher_of(settings), trusting(settings)).to(context.accelerator.device)
        self.teacher.eval().requires_grad_(False)
        acc = context.accelerator
        self.sampler = make_sampler(context.policy, settings.sampling, settings, acc.num_processes, "distillation")
        self.runs_policy = settings.own_share > 0

    @classmethod
    def other_inputs(cls, settings: DistillationSettings) -> dict[str, str]:
        """The teacher's hash: with another teacher it is another stage. TrimtabError where there is none."""
        return {"teacher": hash_model(teacher_of(settings))}

    @classmethod
    def check_needs(cls, settings: DistillationSettings, chat: TextFormat) -> None:
        """Raises TrimtabError where the teacher is not there, or does not speak in the student's tokens."""
        check_model_source(teacher_of(settings), settings, "policy")
        check_same_tokens(chat.tokenizer, settings)

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """The groups, some of them with the student's own answer in place of the data's."""
        draws = np.random.default_rng([self.settings.seed, step, 2]).random(len(groups))
        own = [place for place in range(len(groups)) if draws[place] < self.settings.own_share]
        answered = dict(zip(own, self._answers([groups[place] for place in own], step), strict=True))
        trained = [answered.get(place, group) for place, group in enumerate(groups)]
        tokens = [len(group.completions[0]) for group in answered.values()]
        metrics: Sums = {"own_share": (float(len(own)), float(len(groups)))}
        if tokens:
            metrics["completions/mean_length"] = (float(sum(tokens)), float(len(tokens)))
        return Step(trained, total_completion_tokens(trained), self.loss, metrics)

    def _answers(self, groups: Sequence[CompletionGroup], step: int) -> list[CompletionGroup]:
        """The prompts with a completion of the student's own, of all processes, which share the prompts out."""
        if not groups:
            return []
        seeds = np.random.SeedSequence([self.settings.seed, step, 3])
        return self._sampled(groups, self.settings.sampling, int(seeds.generate_state(1)[0]))

    def _sampled(self, groups: Sequence[CompletionGroup], sampling: Sampling, seed: int) -> list[CompletionGroup]:
        acc = self.context.accelerator
        places = share_of(acc, len(groups))
        with torch.no_grad(), acc.autocast():
            samples = self.sampler.sample(
                [groups[place].prompt for place in places], 1, sampling,
                seed=seed, stops=self.context.stops, places=places,
            )  # fmt: skip
        answers = gather_items(acc, places, [of_prompt[0].tokens for of_prompt in samples])
        return [
            replace(group, completions=(tokens,), truncated=(), scores=None, labels=None, prompt_suffixes=())
            for group, tokens in zip(groups, answers, strict=True)
        ]

    def loss(self, policy: Forward, batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        """A pass's share of the mean divergence over the step's completion tokens."""
        out = policy(batch, entropy=True, reference=self.teacher, divergence=self._divergence)
        return out.kl.sum() / total, {"entropy": (float(out.entropy.sum()), float(len(out.logps)))}

    @property
    def _divergence(self) -> partial[Tensor]:
        return partial(generalised_jsd, beta=self.settings.beta)

    def evaluate_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        """The divergence, in nats a token, and the entropy of the student."""
        out = policy(batch, entropy=True, reference=self.teacher, divergence=self._divergence)
        tokens = float(len(out.logps))
        return {"divergence": (float(out.kl.sum()), tokens), "entropy": (float(out.entropy.sum()), tokens)}

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Means over held-out groups and over the student's own answers.

        loss: what is optimised, own_share · own/divergence + (1 − own_share) · divergence.
        divergence: on the held-out completions; own/divergence: on the student's answers to their prompts, with the
        same random numbers at every evaluation.
        """
        if not self.validation:
            return {}
        means = super().evaluate(policy)
        share, prompts = self.settings.own_share, self.validation[: self.settings.validation_prompts]
        if not prompts or not share:
            return means | {"loss": means["divergence"]}
        answers = self._sampled(prompts, self.settings.sampling, self.settings.seed)
        own = self.context.evaluate(self.evaluate_pass, policy, answers)
        lengths = [len(group.completions[0]) for group in answers]
        return means | {
            "own/divergence": own["divergence"],
            "completions/mean_length": sum(lengths) / len(lengths),
            "loss": share * own["divergence"] + (1 - share) * means["divergence"],
        }


def teacher_of(settings: DistillationSettings) -> str:
    """The teacher's source. TrimtabError where the settings name none."""
    if settings.teacher is None:
        raise TrimtabError(
            "distillation: no teacher. Name one with --set teacher=FOLDER (in a recipe: distillation.teacher)."
        )
    return settings.teacher


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, settings: DistillationSettings) -> None:
    """Raises TrimtabError where the teacher's tokenizer gives other ids, whose distributions do not compare."""
    own, of_teacher = tokenizer.get_vocab(), load_tokenizer(teacher_of(settings), settings).get_vocab()
    different = [token for token, i in own.items() if of_teacher.get(token) != i]
    if different:
        raise TrimtabError(
            f"distillation: the teacher {settings.teacher} has other tokens than the student ({len(different)} of "
            f"{len(own)} differ, such as {different[0]!r}). Take a teacher of the same family."
        )
