"""Every loss, as pure functions of tensors: `losses.preference.dpo(…)`; `losses.table.LOSSES` has those
of preferences by name."""

from trimtab.losses import (
    completions,
    distillation,
    length_penalty,
    policy_gradient,
    ppo,
    preference,
    response_conditioned,
    reward_model,
    sft,
    table,
)

__all__ = [
    "completions",
    "distillation",
    "length_penalty",
    "policy_gradient",
    "ppo",
    "preference",
    "response_conditioned",
    "reward_model",
    "sft",
    "table",
]
