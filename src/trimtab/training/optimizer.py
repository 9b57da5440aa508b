"""Adam over what is trained, with a learning rate for each part of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.training.schedule import TrainingSettings


def make_optimizer(
    model: torch.nn.Module, settings: TrainingSettings, rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Adam, or AdamW where matrices decay. Moments are float32, as the weights are, or in eight bits where asked.

    rates: part of the model -> its learning rate as a multiple of the setting's; 1 for all others.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if any(p.dtype != torch.float32 for p in trained.values()):
        raise TrimtabError("master weights must be float32: at small learning rates bf16 ones hardly move.")
    groups: list[JsonObject] = []
    for part, rate in {"": 1.0, **(rates or {})}.items():
        members = [p for name, p in trained.items() if _part(name, rates or {}) == part]
        matrices, others = [p for p in members if p.ndim >= 2], [p for p in members if p.ndim < 2]
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "rate": rate})
        groups.append({"params": others, "weight_decay": 0.0, "rate": rate})
    if settings.optimizer == "adamw_8bit":
        return _adamw_8bit(groups, settings)
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=settings.adam_betas, eps=settings.adam_epsilon, fused=True
    )


def _adamw_8bit(groups: list[JsonObject], settings: TrainingSettings) -> torch.optim.Optimizer:
    try:
        from trimtab.training.adamw_8bit import AdamW8bitInPieces
    except ImportError as error:
        raise TrimtabError(
            f"optimizer: adamw_8bit needs bitsandbytes, which cannot be imported ({error}). "
            "Install it with: pip install 'trimtab[quantize]'. Or leave optimizer out."
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bitInPieces(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate, betas=settings.adam_betas, eps=settings.adam_epsilon,
    )  # fmt: skip
    return optimizer


def _part(name: str, rates: Mapping[str, float]) -> str:
    first = name.partition(".")[0]
    return first if first in rates else ""
