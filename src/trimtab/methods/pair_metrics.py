"""Metrics of preference pairs, under TRL's names (docs/metrics.md)."""

from __future__ import annotations

from torch import Tensor

from trimtab.training.step import Sums, share_ahead


def pair_metrics(
    chosen_rewards: Tensor, rejected_rewards: Tensor, chosen_logps: Tensor, rejected_logps: Tensor
) -> Sums:
    """Metrics of pairs, under TRL's names.

    accuracies: share of pairs whose implicit reward margin is positive, ties half.
    """
    margins = chosen_rewards - rejected_rewards
    values = {
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/margins": margins,
    }
    metrics = {name: (float(value.sum()), float(value.numel())) for name, value in values.items()}
    metrics["rewards/accuracies"] = share_ahead(margins)
    return metrics | logp_metrics(chosen_logps, rejected_logps)


def logp_metrics(chosen: Tensor, rejected: Tensor) -> Sums:
    """Mean log-probabilities of whole completions, in nats."""
    count = float(chosen.numel())
    chosen, rejected = chosen.detach(), rejected.detach()
    return {"logps/chosen": (float(chosen.sum()), count), "logps/rejected": (float(rejected.sum()), count)}
