"""Low-rank adapters. Hu et al. 2021 (arXiv 2106.09685), by peft; DoRA (2402.09353) and rsLoRA (2312.03732) too.

The adapter's layers are put into the model in place: its backbone, head and attention are called as before, so
that the tree, the sampler and the sliced head know nothing of adapters. Only the adapter is trained, saved in
checkpoints and given to the optimizer. A finished stage holds the merged model, and the adapter beside it (a
reward model only the merged one: its head is trained too).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from torch import nn

from trimtab.data.adapters import CONFIG, base_of, bases_of
from trimtab.data.hashing import hash_source
from trimtab.errors import TrimtabError, reason_of
from trimtab.models.quantized import is_quantized, merge_unpacked
from trimtab.models.settings import LoraSettings
from trimtab.models.weights import check_finite

if TYPE_CHECKING:
    from peft import LoraModel, PeftModel
    from transformers import PreTrainedModel

Module = TypeVar("Module", bound=nn.Module)
ADAPTER = "adapter"
"""The folder, inside a stage's best/, that holds the adapter as peft saves it."""
AdapterHandle: TypeAlias = "PeftModel | LoraModel"
"""peft's hold on a model and the adapter in it; a LoraModel where a classifier's head is trained too."""


def hash_model(source: str) -> str:
    """What a model folder holds; of an adapter's, what its base holds too."""
    return "+".join(hash_source(place) for place in [source, *bases_of(source)])


def add_lora(
    model: PreTrainedModel, settings: LoraSettings, seed: int, source: str, head: nn.Module | None = None
) -> AdapterHandle:
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
        raise TrimtabError(f"lora.targets: {reason_of(error)}{hint}") from error
    if not any(module is head for module in model.children()):  # peft has wrapped it
        raise TrimtabError("lora.targets: the scoring head takes no adapter: it is trained itself. Leave it out.")
    head.requires_grad_(True)
    return handle


def load_adapter(model: PreTrainedModel, source: str) -> PeftModel:
    """Puts a saved adapter into its base model, to be trained on. Returns peft's handle. TrimtabError where the
    two do not belong together: nothing of the adapter is left out, and nothing of it made up."""
    import peft

    try:
        weights = peft.utils.load_peft_weights(source, device="cpu")
        check_finite(source, "adapter", weights.items())
        _resize(model, weights, source)
        handle = peft.PeftModel.from_pretrained(model, source, is_trainable=True)
        report = handle.load_adapter(source, "default", is_trainable=True)  # once more, to be told what did not fit
    except TrimtabError:
        raise
    except Exception as error:  # the library raises whatever it likes
        raise TrimtabError(f"adapter {source}: cannot be put into {base_of(source)}: {reason_of(error)}") from error
    wrong = [("lacks", report.missing_keys), ("has a layer for which there is no place,", report.unexpected_keys)]
    for what, names in wrong:
        if names:
            raise TrimtabError(
                f"adapter {source}: {what} {names[0]} ({len(names)} such tensors): it is not whole, or was not "
                f"trained on {base_of(source)}. Put the right model into base_model_name_or_path of its {CONFIG}."
            )
    return handle


def adapter_shapes(source: str) -> dict[str, torch.Size]:
    """Of the tensors that an adapter's folder holds."""
    import peft

    try:
        return {name: weight.shape for name, weight in peft.utils.load_peft_weights(source, device="cpu").items()}
    except Exception as error:
        raise TrimtabError(f"adapter {source}: its weights cannot be read: {reason_of(error)}") from error


def _resize(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Gives the model as many embeddings as the adapter brings along, where its vocabulary was resized."""
    ends = {id(model.get_input_embeddings()): "embeddings"}
    if (head := model.get_output_embeddings()) is not None and not shares_ends(model):
        ends[id(head)] = "head"
    brought = {}
    for name, module in model.named_modules():
        if id(module) in ends:
            keys = [f"base_model.model.{name}{part}.weight" for part in ("", ".base_layer", ".modules_to_save")]
            rows = [weights[key].shape[0] for key in keys if key in weights]
            brought[ends[id(module)]] = rows[0] if rows else None
    entries, needed = int(model.get_input_embeddings().weight.shape[0]), brought.get("embeddings")
    if needed is None or needed == entries:
        return
    if any(rows != needed for rows in brought.values()):
        raise TrimtabError(
            f"adapter {source}: brings {needed} embeddings for a vocabulary of {entries}, but no head of that "
            "size: the new entries' logits would be random. Name the merged model."
        )
    model.resize_token_embeddings(needed, mean_resizing=False)  # peft writes what it brings over the new ones


def shares_ends(model: PreTrainedModel) -> bool:
    """Whether the head's weights are the embeddings', whatever the config says."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    first, last = (getattr(end, "base_layer", end) for end in ends)
    return last is not None and first.weight is last.weight


def say_untied(model: PreTrainedModel) -> PreTrainedModel:
    """The model; where its head has weights of its own its config says so, or a reader would tie the two again."""
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "tie_word_embeddings", False) and model.get_output_embeddings() is not None:
            config.tie_word_embeddings = shares_ends(model)
    return model


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The frozen model's weights under the names that they have without an adapter."""
    state = model.state_dict()
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if "lora_" not in name}


def merged(handle: AdapterHandle) -> PreTrainedModel:
    """A plain float32 model of the same function, with the adapter in its weights; the handle stays as it is."""
    copied = copy.deepcopy(handle)
    _part_ends(copied)
    return say_untied(merge_unpacked(copied) if is_quantized(copied) else copied.merge_and_unload())


def parting_head(handle: AdapterHandle) -> nn.Module | None:
    """The head that merging parts from the embeddings whose weights it shares, since an adapter is on one of them;
    None where it parts none."""
    model: PreTrainedModel = handle.get_base_model() if hasattr(handle, "get_base_model") else handle.model
    head = model.get_output_embeddings()
    ends = [model.get_input_embeddings(), head]
    parts = head is not None and shares_ends(model) and any(hasattr(end, "base_layer") for end in ends)
    return head if parts else None


def _part_ends(handle: AdapterHandle) -> None:
    """Where an adapter is on a head or on embeddings that share their weights, the head gets a copy: merging adds
    to the weights in place, and so would change the other end, which was trained without it."""
    head = parting_head(handle)
    if head is None:
        return
    layer: nn.Module = getattr(head, "base_layer", head)
    weight = layer.get_parameter("weight")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)


def frozen_copy(policy: Module) -> Module:
    """The policy as it is now, to be a reference: what is frozen in it is shared, what is trained copied.

    So that with LoRA the reference costs an adapter, and not a model.
    """
    shared = {id(p): p for p in policy.parameters() if not p.requires_grad}
    return copy.deepcopy(policy, shared).requires_grad_(False).eval()
