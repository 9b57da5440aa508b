"""How models are held in memory: settings, and what `auto` means on a device."""

from __future__ import annotations

from typing import Literal

import torch

from trimtab.data.trust import TrustSettings
from trimtab.models.lora import LoraSettings

Precision = Literal["auto", "float32", "bf16"]


class ModelSettings(TrustSettings):
    """How the policy is held in memory. Master weights are always float32."""

    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: bf16 on CUDA and on CPUs with AMX tiles,
    else float32: with AVX-512's bf16 instructions alone, oneDNN's bf16 products measured 0.5 to 0.6 times as
    fast as its float32 ones, and a training step 0.73 to 0.99 times."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, more time, the same result."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of all weights; None: all weights are trained."""


def trusting(trust: TrustSettings | None) -> ModelSettings:
    """Default settings, but for what the folder may do."""
    return ModelSettings(**trust.model_dump(include=set(TrustSettings.model_fields))) if trust else ModelSettings()


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """What `auto` means here; the answer is recorded, and kept on resume."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "bf16" if has_tiles else "float32"
