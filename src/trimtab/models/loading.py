"""Loading a policy from a folder or a hub name: plain weights, an adapter, four bits. They are checked first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from trimtab.data.adapters import base_of, is_adapter
from trimtab.devices import best_device
from trimtab.errors import TrimtabError, reason_of
from trimtab.models.families import has_experts
from trimtab.models.gguf.place import model_place
from trimtab.models.inputs import read_beside
from trimtab.models.kinds import check_model_source
from trimtab.models.lean_layers import keep_less
from trimtab.models.lora import AdapterHandle, add_lora, load_adapter, merged, say_untied
from trimtab.models.policy import Policy, disable_dropout
from trimtab.models.quantized import FourBit, hold_still, load_arguments, noted
from trimtab.models.settings import ModelSettings, resolve_precision
from trimtab.models.weights import HOW, TINY, check_finite, refuse_unfit, say_unused
from trimtab.notices import warn
from trimtab.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_policy(source: str, settings: ModelSettings | None = None, seed: int | None = None) -> Policy:
    """Loads a causal model in float32 from a folder or a hub name.

    seed: given where it is to be trained: then a new adapter is drawn from it, and an adapter's folder is
    loaded to be trained further. Without it that adapter is merged with its base.
    """
    settings, source = settings or ModelSettings(), model_place(source)
    check_model_source(source, settings, "policy")
    adapted = is_adapter(source)
    if adapted and settings.lora is not None:
        raise TrimtabError(f"model {source}: an adapter, which keeps its own shape: leave 'lora' out.")
    with Progress(f"loading {source}", None):
        model, adapter = _load(source, settings, trained=seed is not None)
    if adapter is None and settings.lora is not None:
        adapter = add_lora(model, settings.lora, seed or 0, source)
    policy = Policy(model, source, adapter)
    if seed is not None and has_experts(model.config):
        warn(f"{model.config.model_type}: a mixture of experts: training has no loss that keeps them equally busy")
    spare_memory(model, settings.gradient_checkpointing)
    return policy


def spare_memory(model: PreTrainedModel, gradient_checkpointing: bool) -> None:
    """Has a model keep less for its backward pass: by activation checkpointing where that is asked for, else by
    leaner layers. Not a tiny one, whose memory is no matter and whose time goes into calls."""
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    elif sum(weight.nbytes for weight in model.parameters()) >= TINY:
        keep_less(model)


def _load(source: str, settings: ModelSettings, trained: bool) -> tuple[PreTrainedModel, AdapterHandle | None]:
    """The model, and peft's handle on the adapter in it where that is to be trained further. What an adapter stands
    on may be an adapter, which is merged."""
    held = _held(source, settings, trained)
    if not is_adapter(source):
        model = _load_causal(source, settings, held)
        disable_dropout(model)
        return model, None
    base = base_of(source)
    if is_adapter(base):
        if held is not None:
            raise TrimtabError(
                f"model {source}: an adapter over four bits whose base is an adapter too, which trimtab cannot "
                f"hold in four bits. Merge {base} first."
            )
        model, _ = _load(base, settings.model_copy(update={"lora": None}), trained=False)
    else:
        model = _load_causal(base, settings, held)
        disable_dropout(model)
    read_beside(model.config, Path(source))
    adapter = load_adapter(model, source)
    return (model, adapter) if trained else (merged(adapter), None)


def _held(source: str, settings: ModelSettings, trained: bool) -> FourBit | None:
    """How frozen weights are to be held; None: in float32. trained: whether an adapter goes on training, with the
    products that the settings say, or is read as it was."""
    if is_adapter(source):
        before = noted(source)
        if before is None or not trained:
            return before
        kind = before.quantize
    elif settings.lora is None or settings.lora.quantize is None:
        return None
    else:
        kind = settings.lora.quantize
    device = best_device()
    return FourBit(kind, resolve_precision(settings.precision, device))


def _load_causal(source: str, settings: ModelSettings, held: FourBit | None) -> PreTrainedModel:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, **HOW, **settings.loading, **load_arguments(held)
        )
    except TrimtabError:
        raise
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(
            f"model {source}: cannot be loaded as a causal language model: {reason_of(error)}"
        ) from error
    refuse_unfit(source, model, info)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise TrimtabError(f"model {source}: an adapter on the hub. Download it into a folder, and name that.")
    check_finite(source, "model", model.state_dict().items())
    say_unused(source, tuple(sorted(info.get("unexpected_keys", []))))
    hold_still(model)
    return say_untied(model)
