"""How models are held in memory: settings, and what `auto` means on a device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from trimtab.data.settings import Settings, distinct
from trimtab.data.trust import TrustSettings
from trimtab.devices import has_fast_bf16
from trimtab.errors import TrimtabError
from trimtab.late import torch

Precision = Literal["auto", "float32", "bf16"]
Quantization = Literal["nf4"]
Role = Literal["policy", "start of a reward model", "reward model"]
"""What a model is wanted for."""


class LoraSettings(Settings):
    """W + (alpha / rank) · B A, with B = 0 at the start."""

    rank: int = Field(16, gt=0, le=2**16)
    """Columns of A and B: more can learn more, and takes more memory."""
    alpha: int = Field(32, gt=0, le=10**6)
    """The adapter's share is alpha / rank; usual is twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's input that is left out while training."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Names of the layers that get one; all-linear: every linear layer but the head."""
    dora: bool = False
    """Learns the weights' magnitudes apart from their directions."""
    rslora: bool = False
    """Scales by alpha / √rank."""
    quantize: Quantization | None = None
    """nf4: the frozen weights are held in four bits (QLoRA); needs bitsandbytes. What is exported is float32."""

    @field_validator("targets")
    @classmethod
    def _each_once(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return value if isinstance(value, str) else distinct(value)


class ModelSettings(TrustSettings):
    """How the policy is held in memory. Master weights are always float32."""

    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: bf16 on CUDA and on CPUs whose bf16
    products are clearly faster (by AMX tiles, or as timed at the start where AVX-512 has bf16 instructions), else
    float32, as on a Mac's GPU."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, more time, the same result."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of all weights; None: all weights are trained."""


def trusting(trust: TrustSettings | None) -> ModelSettings:
    """Default settings, but for what the folder may do."""
    return ModelSettings(**trust.model_dump(include=set(TrustSettings.model_fields))) if trust else ModelSettings()


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """What `auto` means here; the answer is recorded, and kept on resume."""
    if device.type == "mps":
        if precision == "bf16" and not torch.backends.mps.is_macos_or_newer(14, 0):
            raise TrimtabError("precision: bf16 on a Mac's GPU needs macOS 14 or newer: set precision=float32.")
        return "float32" if precision == "auto" else precision
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    return "bf16" if has_fast_bf16() else "float32"
