"""How an on-policy method is validated: preference accuracy on held-out pairs, and fresh samples of their
prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.errors import TrimtabError
from trimtab.losses.preference import dpo
from trimtab.methods.collector import Collector
from trimtab.methods.pair_metrics import pair_metrics
from trimtab.methods.rollouts import Scoring, own_metrics, ratio_metrics, sample_metrics, score_samples
from trimtab.methods.silence import missing_reasons, tally
from trimtab.models.policy import Policy
from trimtab.notices import warn
from trimtab.rewards.base import Reward
from trimtab.training.step import Forward, Sums


class HeldOut:
    """What an on-policy method is validated with.

    prompts: how many held-out prompts are sampled at each evaluation. chosen_by_reward: whether the mean reward
    chooses the best weights, so that a reward without a score ends the run.
    """

    def __init__(
        self,
        collector: Collector,
        reference: Policy,
        validation: Sequence[CompletionGroup],
        prompts: int,
        chosen_by_reward: bool,
    ) -> None:
        self.collector, self.reference, self.context = collector, reference, collector.context
        self.pairs = list(validation) if has_pairs(validation) else []
        self.prompts = [self._with_opening(group) for group in validation[:prompts]]
        self.chosen_by_reward = chosen_by_reward

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Preference accuracy, and metrics of fresh samples, without the prefix eval_."""
        accuracy = self.context.evaluate(self.pairs_pass, policy, self.pairs) if self.pairs else {}
        return accuracy | self._samples()

    def pairs_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        """Preference accuracy of the log-ratio to the reference, which is DPO's implicit reward at β = 1."""
        pairs = batch.sum_by_completion(policy(batch).logps).view(-1, 2)
        references = batch.sum_by_completion(batch.columns["ref_logps"]).view(-1, 2)
        out = dpo(*pairs.unbind(1), *references.unbind(1), beta=1.0)
        return pair_metrics(out.chosen_rewards, out.rejected_rewards, *pairs.unbind(1))

    def _samples(self) -> dict[str, float]:
        """One sample at temperature 1 of each held-out prompt, the same uniforms at every evaluation."""
        if not self.prompts:
            return {}
        context, collector = self.context, self.collector
        sampling = collector.sampling.model_copy(update={"temperatures": (1.0,)})
        with torch.no_grad():
            mine = collector.score(self.prompts, 1, sampling, context.settings.seed, context.validation_records)
        scorings = collector.gather_in_order(self.prompts, mine)
        ref_logps = collector.read(self.reference, scorings, "logps", tempered=False)["logps"]
        sums = sample_metrics(scorings) | ratio_metrics(scorings, ref_logps)
        sums |= own_metrics(collector.reward, sums)
        if "reward" not in sums:
            self._tell_unscored(collector.reward, scorings)
            if self.chosen_by_reward:
                sums["reward"] = (math.nan, 1)  # nothing to choose by this time, and the run goes on
        if context.judge is not None:
            groups, samples = [scoring.group for scoring in mine], [scoring.samples for scoring in mine]
            judged = score_samples(context.judge, context.chat, groups, samples, context.validation_records)
            judged = collector.gather_in_order(self.prompts, judged)
            scores = [scored.score for scoring in judged for scored in scoring.scored if scored.score is not None]
            if scores:
                sums["judge"] = (sum(scores), len(scores))
            else:
                self._tell_unscored(context.judge, judged)
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def _tell_unscored(self, by: Reward, scorings: Sequence[Scoring]) -> None:
        """Raises TrimtabError where this is the reward that chooses what is best, and it never gave a score."""
        tallies = [tally(scoring) for scoring in scorings]
        count = sum(group.completions for group in tallies)
        line = f"{by.name} gave none of the {count} validation completions a score ({missing_reasons(tallies)})"
        if by is self.collector.reward and self.chosen_by_reward and not self.collector.watch.seen["batches"]:
            raise TrimtabError(f"{self.collector.method}: reward {line}. Mend it: it chooses the best weights.")
        warn(f"{line}.", about=f"validation without a score by {by.name}")

    def _with_opening(self, group: CompletionGroup) -> CompletionGroup:
        """A held-out group under the prompt that is asked with: where the template opens answers, written ones that
        are not opened have another."""
        chat = self.context.chat
        if not getattr(chat, "opening", ""):
            return group
        record = replace(self.context.validation_records[group.index], completions=(), labels=None)
        encoded = chat.encode(record)
        return replace(group, prompt=encoded.prompt) if isinstance(encoded, CompletionGroup) else group


def has_pairs(groups: Sequence[CompletionGroup]) -> bool:
    """Whether there are held-out pairs to be accurate on."""
    return any(len(group.completions) > 1 for group in groups)
