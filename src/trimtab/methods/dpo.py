"""Preference training: direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290) and its relatives.

Groups with the best completion first; the prompt is computed once for all. The reference is the model that
training starts from: its log-probabilities are computed before the first step and kept. Which loss it is, or
which weighted sum of several, the table in losses/table.py says; what is made of a pair beforehand, by the setting
`condition` and for the loss rc_dpo, data/conditions.py.
Where we depart: dropout is off (as in TRL); a tie of implicit rewards counts half in the accuracy; KTO's reference
point is kto_point.py's.

Dimension suffixes: _M completion tokens of a batch, _C its completions, _G its groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor

from trimtab.data.chat import ChatFormat
from trimtab.data.conditions import LengthInstruction
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.rows import TruncationSettings
from trimtab.data.split_groups import CompletionsOf, Expansion
from trimtab.data.stored_groups import joined
from trimtab.errors import TrimtabError
from trimtab.losses.completions import CompletionLoss
from trimtab.losses.preference import PreferenceLoss
from trimtab.losses.table import (
    Level,
    LossInput,
    call,
    needs_length_instructions,
    needs_reference,
)
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.kto_point import reference_point, with_mismatched
from trimtab.methods.pair_metrics import logp_metrics, pair_metrics
from trimtab.training.stage_method import PolicyContext, StageMethod
from trimtab.training.step import Forward, Step, Sums, share_ahead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StepFacts(TypedDict):
    """What losses may ask of the whole step, or of the whole validation split."""

    reference_point: Tensor | None
    """KTO's z₀, a scalar in nats; None where no loss asks for it."""
    step_groups: int
    step_chosen_tokens: int


class DPO(StageMethod[DPOSettings]):
    """Trains by any loss of the table on preference pairs, rankings or labelled completions."""

    best_metric = "rewards/accuracies"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "pair"
    version = 2

    def __init__(self, settings: DPOSettings, context: PolicyContext) -> None:
        super().__init__(settings, context)
        if settings.level == "completion" or set(settings.weights) == {"sft"}:  # neither has pairs of rewards
            self.best_metric, self.best_is = "loss", "lowest"
        if "chosen_win_rates" in settings.inputs:
            _check_win_rates(joined([self.train, self.validation]))
        if any(map(needs_reference, settings.weights)):
            self.train, self.validation = context.with_reference(self.train, self.validation)
        self.runs_policy = self.has_point = "reference_point" in settings.inputs
        if self.has_point:
            self.train, self.validation = with_mismatched(context, self.train, self.validation)

    @classmethod
    def completions_of(cls, settings: DPOSettings) -> CompletionsOf:
        """Which of a record's completions the losses read."""
        by_level: dict[Level, CompletionsOf] = {"pair": "pair", "group": "all", "completion": "labelled"}
        return by_level[settings.level]

    @classmethod
    def running_metric(cls, settings: DPOSettings) -> str | None:
        """The accuracy of its implicit rewards; none where it has no pairs of them."""
        unpaired = settings.level == "completion" or set(settings.weights) == {"sft"}
        return None if unpaired else "rewards/accuracies"

    @classmethod
    def text_format(
        cls, tokenizer: PreTrainedTokenizerBase, data: TruncationSettings, settings: DPOSettings
    ) -> ChatFormat:
        """How records become token ids; under a score condition the template asks for a score."""
        condition = settings.condition
        return ChatFormat(condition.tokenizer(tokenizer) if condition else tokenizer, data)

    @classmethod
    def expansion(cls, settings: DPOSettings) -> Expansion | None:
        """The further pairs that rc_dpo, or a score condition, makes of a record."""
        if any(map(needs_length_instructions, settings.weights)):
            return (settings.length_instruction or LengthInstruction()).pairs
        return settings.condition.pairs if settings.condition else None

    # ---- a step

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """The groups with the loss of the step, which knows what its losses ask of the whole step."""
        facts = self._facts(groups)
        completions = sum(len(group.completions) for group in groups)
        total = completions if self.settings.level == "completion" else len(groups)
        metrics: Sums = {} if (point := facts["reference_point"]) is None else {"kl": (float(point), 1.0)}
        return Step(groups, total, partial(self.loss, facts=facts), metrics)

    def _facts(self, groups: Sequence[CompletionGroup]) -> StepFacts:
        point = reference_point(self.context, groups) if self.has_point else None
        return {
            "reference_point": point,
            "step_groups": len(groups),
            "step_chosen_tokens": sum(len(group.completions[0]) for group in groups),
        }

    def loss(self, policy: Forward, batch: PackedBatch, total: float, facts: StepFacts) -> tuple[Tensor, Sums]:
        """A pass's share of the weighted sum of the losses. facts: of the whole step."""
        losses, metrics = self._losses(policy, batch, facts)
        return losses.sum() / total, metrics

    def _losses(self, policy: Forward, batch: PackedBatch, facts: StepFacts) -> tuple[Tensor, Sums]:
        settings = self.settings
        logps_M: Tensor = policy(batch).logps
        tensors = loss_inputs(batch, logps_M, batch.columns.get("ref_logps"))
        if (point := facts["reference_point"]) is not None:
            tensors["reference_point"] = point.to(logps_M.device)
        inputs: dict[str, LossInput] = {
            **tensors,
            "sizes": [len(group.completions) for group in batch.groups],
            "step_groups": facts["step_groups"],
            "step_chosen_tokens": facts["step_chosen_tokens"],
        }
        total: Tensor | None = None
        metrics: Sums = {}
        for name, weight in settings.weights.items():
            out = call(name, inputs, {"beta": settings.beta, **settings.loss_options})
            losses = out if isinstance(out, Tensor) else out.losses
            total = weight * losses if total is None else total + weight * losses
            if not metrics and not isinstance(out, Tensor):
                metrics = self._metrics(out, tensors)
        assert total is not None
        return total, metrics or logp_metrics(tensors["chosen_logps"], tensors["rejected_logps"])

    def _metrics(self, out: PreferenceLoss | CompletionLoss, inputs: Mapping[str, Tensor]) -> Sums:
        chosen, rejected = inputs["chosen_logps"].detach(), inputs["rejected_logps"].detach()
        if not isinstance(out, CompletionLoss):
            metrics = pair_metrics(out.chosen_rewards, out.rejected_rewards, chosen, rejected)
            lengths = out.length_margins
            return metrics if lengths is None else metrics | {"rewards/length_accuracies": share_ahead(lengths)}
        if self.settings.level == "group":
            first_G, last_G = inputs["first_G"], inputs["last_G"]
            return pair_metrics(out.rewards[first_G], out.rewards[last_G], chosen, rejected)
        metrics = {}
        for name, mask_C in (("chosen", inputs["labels_C"]), ("rejected", ~inputs["labels_C"])):
            if count := float(mask_C.sum()):
                metrics[f"rewards/{name}"] = (float(out.rewards[mask_C].sum()), count)
                metrics[f"logps/{name}"] = (float(inputs["logps_C"].detach()[mask_C].sum()), count)
        return metrics

    # ---- validation

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Means over the validation groups; nothing where there are none."""
        if not self.validation:
            return {}
        facts = self._facts(self.validation)
        means = self.context.evaluate(partial(self.evaluate_pass, facts=facts), policy, self.validation)
        point = facts["reference_point"]
        return means | ({} if point is None else {"kl": float(point)})

    def evaluate_pass(self, policy: Forward, batch: PackedBatch, facts: StepFacts | None = None) -> Sums:
        """The loss, by group or completion, and the metrics of its pairs. facts: of the whole split."""
        losses, metrics = self._losses(policy, batch, facts or self._facts(batch.groups))
        return {"loss": (float(losses.sum()), float(losses.numel())), **metrics}


def _check_win_rates(groups: Sequence[CompletionGroup]) -> None:
    """Raises TrimtabError unless every completion has a score that can be a probability."""
    wrong = [g for g in groups if g.scores is None or not all(0 <= score <= 1 for score in g.scores)]
    if wrong:
        problem = "has no scores" if wrong[0].scores is None else f"has scores {wrong[0].scores}"
        raise TrimtabError(
            "loss sppo_estimated: reads each completion's win rate, 0 to 1, from the row's scores (score_chosen, "
            f"score_rejected), but row {wrong[0].index + 1} {problem}. online_dpo makes such rows; "
            "for others there is loss sppo."
        )


def loss_inputs(batch: PackedBatch, logps_M: Tensor, reference_M: Tensor | None) -> dict[str, Tensor]:
    """Every tensor that a loss of the table may name. A group's first completion is chosen, its last rejected.

    logps_M: with gradient. reference_M: the reference's, None where no loss asks for it.
    """
    device = logps_M.device
    sizes = [len(group.completions) for group in batch.groups]
    last_G = torch.tensor(sizes, device=device).cumsum(0) - 1
    first_G = last_G - torch.tensor(sizes, device=device) + 1
    lengths_C = batch.lengths.to(device)
    ends_G = torch.minimum(lengths_C[first_G], lengths_C[last_G])
    group_C = torch.repeat_interleave(torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device))
    starts_C = lengths_C.cumsum(0) - lengths_C
    owner_M = batch.owner.to(device)
    place_M = torch.arange(logps_M.numel(), device=device) - starts_C[owner_M]
    head_M = place_M < ends_G[group_C[owner_M]]
    logps_C = batch.sum_by_completion(logps_M)
    inputs: dict[str, Tensor] = {
        "logps_C": logps_C,
        "first_G": first_G,
        "last_G": last_G,
        "chosen_lengths": lengths_C[first_G],
        "rejected_lengths": lengths_C[last_G],
    }
    if all(group.labels is not None for group in batch.groups):
        labels = [label for group in batch.groups for label in group.labels or ()]
        inputs["labels_C"] = torch.tensor(labels, device=device)
    if all(group.scores is not None for group in batch.groups):
        # A loss that names them has had them checked: _check_win_rates.
        for side, at in (("chosen", 0), ("rejected", -1)):
            scores = [group.scores[at] for group in batch.groups if group.scores is not None]
            inputs[f"{side}_win_rates"] = torch.tensor(scores, device=device)
    for prefix, values_M in (("", logps_M), ("ref_", reference_M)):
        if values_M is None:
            continue
        whole_C, head_C = batch.sum_by_completion(values_M), batch.sum_by_completion(values_M * head_M)
        inputs[f"{prefix}logps_C"] = whole_C
        if all(group.prompt_suffixes for group in batch.groups):  # rows under length instructions: x, x¹, x², x
            inputs[f"{prefix}failing_logps"] = whole_C[first_G + 1]
            inputs[f"{prefix}keeping_logps"] = whole_C[last_G - 1]
        for side, at_G in (("chosen", first_G), ("rejected", last_G)):
            inputs[f"{prefix}{side}_logps"] = whole_C[at_G]
            inputs[f"{prefix}{side}_logps_head"] = head_C[at_G]
    return inputs
