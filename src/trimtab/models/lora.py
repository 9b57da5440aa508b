"""Low-rank adapters. Hu et al. 2021 (arXiv 2106.09685), by peft; DoRA (2402.09353) and rsLoRA (2312.03732) too.

The adapter's layers are put into the model in place: its backbone, head and attention are called as before, so
that the tree, the sampler and the sliced head know nothing of adapters. Only the adapter is trained, saved in
checkpoints and given to the optimizer. A finished stage holds the merged model, and the adapter beside it (a
reward model only the merged one: its head is trained too).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from trimtab.data.hashing import hash_source
from trimtab.data.settings import Settings, distinct
from trimtab.errors import TrimtabError
from trimtab.models.quantized import Quantization, is_quantized, merge_unpacked

ADAPTER = "adapter"
"""The folder, inside a stage's best/, that holds the adapter as peft saves it."""


class LoraSettings(Settings):
    """W + (alpha / rank) · B A, with B = 0 at the start."""

    rank: int = Field(16, gt=0, le=2**16)
    alpha: int = Field(32, gt=0, le=10**6)
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the adapter's input, while training."""
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


def is_adapter(source: str) -> bool:
    """Whether a folder holds an adapter, and no model."""
    folder = Path(source).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of(source: str) -> str:
    """The model that an adapter's folder was trained on, as its config names it."""
    import peft

    try:
        base = peft.PeftConfig.from_pretrained(source).base_model_name_or_path
    except Exception as error:  # the library raises whatever it likes
        raise TrimtabError(f"adapter {source}: its adapter_config.json cannot be read: {error}") from error
    if not base:
        raise TrimtabError(f"adapter {source}: its config names no base model (base_model_name_or_path).")
    return str(base)


def hash_model(source: str) -> str:
    """What a model folder holds; of an adapter's, what its base holds too."""
    own = hash_source(source)
    return f"{own}+{hash_source(base_of(source))}" if is_adapter(source) else own


def add_lora(model: Any, settings: LoraSettings, seed: int, source: str, head: nn.Module | None = None) -> Any:
    """Freezes the model and puts a new adapter into it, drawn from `seed`. Returns peft's handle.

    head: of a classifier: no adapter for it, it is trained itself. Without one the handle can save the
    adapter by itself. TrimtabError where `targets` fit no layer.
    """
    import peft

    config = peft.LoraConfig(
        task_type="CAUSAL_LM" if head is None else "SEQ_CLS",
        base_model_name_or_path=source,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets if isinstance(settings.targets, str) else list(settings.targets),
        use_dora=settings.dora,
        use_rslora=settings.rslora,
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if head is None:
                return peft.get_peft_model(model, config)
            handle = peft.LoraModel(model, config, "default")
    except ValueError as error:
        hint = " Name the layers instead, such as [in_proj]." if "Mamba" in str(error) else ""
        raise TrimtabError(f"lora.targets: {str(error).splitlines()[0]}{hint}") from error
    head.requires_grad_(True)
    return handle


def load_adapter(model: Any, source: str) -> Any:
    """Puts a saved adapter into its base model, to be trained on. Returns peft's handle."""
    import peft

    try:
        return peft.PeftModel.from_pretrained(model, source, is_trainable=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrimtabError(f"adapter {source}: cannot be put into {base_of(source)}: {reason}") from error


def plain_state(model: Any) -> dict[str, torch.Tensor]:
    """The frozen model's weights under the names that they have without an adapter."""
    state = model.state_dict()
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if "lora_" not in name}


def merged(handle: Any) -> Any:
    """A plain float32 model of the same function, with the adapter in its weights; the handle stays as it is."""
    copied = copy.deepcopy(handle)
    return merge_unpacked(copied) if is_quantized(copied) else copied.merge_and_unload()


def frozen_copy(policy: nn.Module) -> nn.Module:
    """The policy as it is now, to be a reference: what is frozen in it is shared, what is trained copied.

    So that with LoRA the reference costs an adapter, and not a model.
    """
    shared: dict[int, Any] = {id(p): p for p in policy.parameters() if not p.requires_grad}
    return copy.deepcopy(policy, shared).requires_grad_(False).eval()
