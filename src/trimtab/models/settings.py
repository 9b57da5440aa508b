"""How models are held in memory: settings, and what `auto` means on a device."""

from __future__ import annotations

from typing import Literal

import torch

from trimtab.data.trust import TrustSettings
from trimtab.devices import has_fast_bf16
from trimtab.models.lora import LoraSettings

Precision = Literal["auto", "float32", "bf16"]


class ModelSettings(TrustSettings):
    """How the policy is held in memory. Master weights are always float32."""

    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: bf16 on CUDA and on CPUs whose bf16
    products are clearly faster (by AMX tiles, or as timed at the start where AVX-512 has bf16 instructions), else
    float32."""
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
    return "bf16" if has_fast_bf16() else "float32"
