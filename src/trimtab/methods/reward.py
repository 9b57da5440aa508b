"""Reward model training: Bradley-Terry on preference pairs. Ouyang et al. 2022, Eq. 1.

The same groups as DPO's: two completions, chosen first, a prompt computed once for both where the backbone
serves the tree. Margins come from the data's scores where they are wanted (Touvron et al. 2023, Eq. 2). Response-
conditioned (Cai et al. 2025), a row is four completions: the pair, and each under a prompt that asks for a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.pairs import PairFormat, TurnFormat, reward_format
from trimtab.data.rows import TruncationSettings
from trimtab.data.split_groups import Expansion
from trimtab.data.stored_groups import changed, longest_row
from trimtab.data.tokenizer import save_tokenizer
from trimtab.errors import TrimtabError
from trimtab.evaluation.statistics import wilson_interval
from trimtab.losses.response_conditioned import length_margins, response_conditioned
from trimtab.losses.reward_model import bradley_terry, center
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.models.reward_model import RewardModel, for_scoring, load_reward_model
from trimtab.notices import warn
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import ModelMethod, TrainingContext
from trimtab.training.step import Forward, Step, Sums, share_ahead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


RewardFormats: TypeAlias = TurnFormat | PairFormat


class RewardModelTraining(ModelMethod[RewardModelSettings, RewardModel, RewardFormats]):
    """Trains a reward model by the Bradley-Terry likelihood of preference pairs."""

    best_metric = "accuracy"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "pair"
    role = "start of a reward model"
    version = 1

    def __init__(self, settings: RewardModelSettings, context: TrainingContext[RewardModel, RewardFormats]) -> None:
        super().__init__(settings, context)
        model = context.policy
        model.bind(context.chat)
        # A score is read at a completion's last token, which a packed batch would not feed.
        self.train = changed(context.train, lambda place, group: for_scoring(group))
        self.validation = changed(context.validation, lambda place, group: for_scoring(group))
        longest = max(map(longest_row, (context.train, context.validation)))
        if model.max_length is not None and longest > model.max_length:
            raise TrimtabError(
                f"reward model {model.source}: takes {model.max_length} positions, but a row has {longest} tokens. "
                f"Set max_length to at most {model.max_length}."
            )
        if settings.margin is not None and any(group.scores is None for group in self.train):
            raise TrimtabError("reward: 'margin' needs rows with scores, and some have none. Leave it out.")
        against = sum(g.scores is not None and g.scores[0] < g.scores[-1] for g in self.train)
        if settings.margin is not None and against:
            warn(
                f"margin: in {against} of {len(self.train)} pairs the chosen completion has the lower score, "
                "and a negative margin. Do high scores mean good ones?",
                about="negative margins",
            )

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> RewardModel:
        """A sequence classifier with one score, new or trained before."""
        heads = settings.heads if isinstance(settings, RewardModelSettings) else 1
        return load_reward_model(source, settings, seed=settings.seed, heads=heads)

    @classmethod
    def running_metric(cls, settings: RewardModelSettings) -> str | None:
        """The share of a step's pairs whose chosen completion scores higher."""
        return "accuracy"

    @classmethod
    def text_format(
        cls, tokenizer: PreTrainedTokenizerBase, data: TruncationSettings, settings: RewardModelSettings
    ) -> RewardFormats:
        """Pairs as the reward model reads them."""
        return reward_format(tokenizer, data)

    @classmethod
    def expansion(cls, settings: RewardModelSettings) -> Expansion | None:
        """The further pairs that response conditioning makes of a record."""
        conditioned = settings.response_conditioned
        return conditioned.pairs if conditioned else None

    @classmethod
    def save(cls, policy: RewardModel, chat: RewardFormats, folder: Path) -> None:
        """Writes a plain sequence classifier, with its tokenizer."""
        save_tokenizer(chat.tokenizer, folder)
        policy.save(folder)

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """All groups, with the mean over the pairs of the step as the loss."""
        return Step(groups, len(groups), self.loss)

    def loss(self, policy: Forward, batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        """A pass's share of the mean of −log σ(r_w − r_l − margin) over the step's pairs."""
        losses, chosen, rejected, metrics = self._losses(policy, batch)
        if self.settings.center:
            losses = losses + self.settings.center * center(chosen, rejected)
        heads = self.settings.heads
        if heads > 1:
            losses = losses * bootstrap_weights(batch, heads, self.settings.seed).to(losses.device)
        return losses.sum() / (total * heads), metrics

    def _losses(self, policy: Forward, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor, Sums]:
        """Losses, scores of chosen and of rejected completions, [G · H], the heads of a pair side by side."""
        conditioned, heads = self.settings.response_conditioned, self.settings.heads
        of_heads = policy(batch).view(-1, 4 if conditioned else 2, heads).unbind(1)
        scores = [scores_GH.flatten() for scores_GH in of_heads]
        means = [scores_GH.mean(1) for scores_GH in of_heads] if heads > 1 else scores
        chosen, rejected = scores[0], scores[-1]
        margin = None
        if self.settings.margin is not None and all(g.scores is not None for g in batch.groups):
            gaps = [g.scores[0] - g.scores[-1] for g in batch.groups if g.scores is not None]
            margin = self.settings.margin * torch.tensor(gaps, device=chosen.device).repeat_interleave(heads)
        losses = bradley_terry(chosen, rejected, margin)
        metrics = pair_scores(means[0].detach(), means[-1].detach())
        if heads > 1:
            metrics |= disagreement((of_heads[0] - of_heads[-1]).detach())
        if conditioned:
            losses = response_conditioned(losses, *scores, balance=conditioned.balance)
            metrics["length_accuracy"] = share_ahead(length_margins(*means))
        return losses, chosen, rejected, metrics

    def evaluate_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        """The loss and accuracy of held-out pairs."""
        losses, _, _, metrics = self._losses(policy, batch)
        return {"loss": (float(losses.sum()), float(losses.numel())), **metrics}

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Means over the held-out pairs, with a 95 % Wilson interval of the accuracy."""
        metrics = super().evaluate(policy)
        if metrics:
            pairs = len(self.validation)
            interval = wilson_interval(round(metrics["accuracy"] * pairs), pairs)
            metrics |= {"accuracy/low": interval.low, "accuracy/high": interval.high}
        return metrics


def pair_scores(chosen: Tensor, rejected: Tensor) -> Sums:
    """Metrics of pairs, under TRL's names.

    accuracy: share of pairs whose chosen completion scores higher, ties half.
    """
    margins = chosen - rejected
    pairs = float(margins.numel())
    return {
        "accuracy": share_ahead(margins),
        "margin": (float(margins.sum()), pairs),
        "mean_reward": (float((chosen + rejected).sum()) / 2, pairs),
    }


def bootstrap_weights(batch: PackedBatch, heads: int, seed: int) -> Tensor:
    """How often each head's bootstrap draw of the pairs has each pair: float32 [G · H], the heads side by side.

    Poisson with mean 1, which a draw with replacement comes to with many pairs (Oza and Russell 2001, online
    bagging): a function of seed, row and head, whatever else is in the pass, and the same in every epoch.
    """
    rng = (np.random.default_rng([seed, BOOTSTRAP, group.index]) for group in batch.groups)
    return torch.from_numpy(np.concatenate([draw.poisson(1.0, heads) for draw in rng])).float()


BOOTSTRAP = 7
"""A stream of random numbers."""


def disagreement(margins_GH: Tensor) -> Sums:
    """How far the heads are apart on pairs. margins_GH: of each head.

    heads/spread: standard deviation of a pair's margins over the heads, mean over pairs. heads/otherwise: share of
    heads and pairs where the sign is not that of the mean margin.
    """
    mean_G1 = margins_GH.mean(1, keepdim=True)
    otherwise = (margins_GH.sign() * mean_G1.sign() < 0).float()
    spread_G = margins_GH.std(1, correction=0)
    return {
        "heads/spread": (float(spread_G.sum()), float(spread_G.numel())),
        "heads/otherwise": (float(otherwise.sum()), float(otherwise.numel())),
    }
