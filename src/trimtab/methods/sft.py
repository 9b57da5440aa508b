"""Supervised fine-tuning on the chosen completions. Ouyang et al. 2022, arXiv 2203.02155, §3.

Groups of one completion. The loss is losses/sft.py's, by tokens or by sequences of the whole step. Two things can
be added to it: a length penalty (length_penalty.py), and a countdown to the end of each completion (countdown.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from trimtab.data.groups import CompletionGroup, PackedBatch, total_completion_tokens
from trimtab.errors import TrimtabError
from trimtab.losses.sft import sft
from trimtab.methods.countdown import CAVEAT, make_encoding, with_slack
from trimtab.methods.length_penalty import LengthPenalty
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import PolicyContext, StageMethod
from trimtab.training.step import Forward, Step, Sums


class SFT(StageMethod[SFTSettings]):
    """Trains by maximum likelihood of the chosen completions."""

    best_metric = "loss"
    best_is: Literal["highest", "lowest"] = "lowest"
    completions = "first"
    version = 1

    def __init__(self, settings: SFTSettings, context: PolicyContext) -> None:
        super().__init__(settings, context)
        if settings.length_encoding is not None:
            context.policy.inputs.adopt(make_encoding(settings.length_encoding, context.policy, self.train))
        elif settings.length_penalty is not None and context.policy.inputs.encoding is not None:
            raise TrimtabError("sft: this model counts down to a target length already: leave length_penalty out.")
        self.penalty: LengthPenalty | None = None
        if settings.length_penalty is not None:
            self.runs_policy = True
            self.penalty = LengthPenalty(settings.length_penalty, settings.normalisation, settings.seed, context)

    @classmethod
    def caveat(cls, settings: SFTSettings) -> str | None:
        """With a length encoding, perplexity does not compare with that of other models."""
        return CAVEAT if settings.length_encoding is not None else None

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Policy:
        """Loads the policy; one that has a length encoding goes on with it."""
        return load_policy(source, settings, settings.seed)

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """All groups; in some steps with the length penalty beside them."""
        groups = with_slack(groups, self.context.policy.inputs.encoding, self.settings.seed, step)
        by_tokens = self.settings.normalisation == "tokens"
        total = total_completion_tokens(groups) if by_tokens else len(groups)
        extra = self.penalty.of_step(groups, step) if self.penalty else None
        return Step(groups, total, self.loss, extra=extra)

    def loss(self, policy: Forward, batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        """A pass's share of −Σ log π(y | x), divided by the step's tokens or sequences."""
        return sft(policy(batch).logps, total), {}

    def evaluate_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        """The loss and the entropy of a pass.

        loss: nats a token over all validation completions, whatever normalisation training has.
        """
        out = policy(batch, entropy=True)
        tokens = float(out.logps.numel())
        return {"loss": (float(-out.logps.sum()), tokens), "entropy": (float(out.entropy.sum()), tokens)}
