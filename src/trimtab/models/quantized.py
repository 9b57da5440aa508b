"""Frozen weights in four bits under an adapter. QLoRA, Dettmers et al. 2023 (arXiv 2305.14314), by bitsandbytes.

Each linear layer but the head is held as NF4 (their §3): blocks of 64 weights, each weight one of 16 quantiles of a
normal distribution times the block's largest, and these scales in eight bits in their turn (double quantisation):
0.52 bytes a weight. Embeddings, norms, head and adapter stay float32.

Where we depart: what is exported is the weights as they were trained on, read back to float32, plus the adapter.
peft's merge rounds that sum to four bits again, which is another model than the one that was evaluated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from trimtab.errors import TrimtabError
from trimtab.models.settings import Quantization

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit
    from peft import LoraModel, PeftModel
    from transformers import PreTrainedModel


# Where it is installed peft imports it, and it warns of a kernel that it did not fetch and that is not used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

Products = Literal["float32", "bf16"]
FILE = "quantization.json"
"""Beside an adapter's weights: what its base was held in, without which the adapter is another function."""
BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight: its code, its block's scale, and the scale of 256 such scales."""


class FourBit(NamedTuple):
    """How frozen weights are held. products: what they, and these layers' biases, are multiplied and added in."""

    quantize: Quantization
    products: Products


def load_arguments(held: FourBit | None) -> dict[str, BitsAndBytesConfig]:
    """Arguments of from_pretrained. TrimtabError where bitsandbytes is not installed."""
    if held is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise TrimtabError(
            f"lora.quantize: {held.quantize} needs bitsandbytes, which cannot be imported ({error}). "
            "Install it with: pip install 'trimtab[quantize]'. Or leave quantize out."
        ) from error
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=held.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype={"float32": torch.float32, "bf16": torch.bfloat16}[held.products],
    )
    return {"quantization_config": config}


def hold_still(model: nn.Module) -> None:
    """Makes frozen weights stay as they are while they are used, in every kind of pass. Call once, when loaded.

    On CPUs that multiply bf16, bitsandbytes 0.50 repacks a layer's weights in the first pass without gradients, and
    from then on takes bf16 products of them and lets no gradient through. And it rounds biases in the first pass of
    all, where products are bf16: done here, so that the weights' hash does not depend on when it is taken.
    """
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False
        if layer.bias is not None:
            layer.bias.data = layer.bias.data.to(layer.compute_dtype)


def is_quantized(model: nn.Module) -> bool:
    """Whether any layer's weights are held in four bits."""
    return next(four_bit_layers(model), None) is not None


def four_bit_layers(model: nn.Module) -> Iterator[Linear4bit]:
    """The layers whose weights are held in four bits."""
    return (module for module in model.modules() if _is_four_bit(module))


def _is_four_bit(module: nn.Module) -> bool:
    """Of a layer itself: peft's wrapper around one shows its weight too."""
    return type(getattr(module, "weight", None)).__name__ == "Params4bit" and not hasattr(module, "base_layer")


def note(folder: Path, model: nn.Module) -> None:
    """Writes into an adapter's folder how its base is held, where that is not in float32."""
    for layer in four_bit_layers(model):
        products: Products = "bf16" if layer.compute_dtype == torch.bfloat16 else "float32"
        kept = FourBit(layer.weight.quant_type, products)._asdict()
        (folder / FILE).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        return


def noted(source: str) -> FourBit | None:
    """How the base of an adapter's folder was held; None where it was in float32."""
    file = Path(source) / FILE
    if not file.is_file():
        return None
    try:
        held = FourBit(**json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise TrimtabError(f"adapter {source}: {FILE} cannot be read: {error}") from error
    if held.quantize != "nf4" or held.products not in ("float32", "bf16"):
        raise TrimtabError(f"adapter {source}: {FILE} names {tuple(held)}; known are nf4 with float32 or bf16.")
    return held


def unpacked(layer: Linear4bit) -> Tensor:
    """A four-bit layer's weight as it reads back, float32 [out, in]."""
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.float()


@torch.no_grad()
def merge_unpacked(handle: PeftModel | LoraModel) -> PreTrainedModel:
    """Of peft's handle on a four-bit model: the plain float32 model with the adapter added, on the CPU. The handle
    is used up: give a copy."""
    model: PreTrainedModel = handle.get_base_model()
    for name, layer in list(model.named_modules()):
        base = getattr(layer, "base_layer", layer)
        if not _is_four_bit(base) or name.endswith(".base_layer"):
            continue
        weight = unpacked(base)
        if base is not layer:
            weight = _with_adapter(layer, weight)
        # Off the GPU, where a model that needs four bits may have no room in float32.
        model.set_submodule(name, _plain_layer(base, weight.cpu()))
    model.hf_quantizer.remove_quantization_config(model)
    model.is_loaded_in_4bit = False
    return handle.merge_and_unload().cpu()  # with the adapters of layers that were float32 all along


class _LoraVariant(Protocol):
    def merge_safe(self, layer: _AdaptedLayer, adapter: str, weight: Tensor, /) -> Tensor: ...


class _AdaptedLayer(Protocol):
    """What is used of peft's wrapper around a linear layer."""

    active_adapters: Sequence[str]
    lora_variant: Mapping[str, _LoraVariant]

    def get_delta_weight(self, adapter: str, /) -> Tensor: ...


def _with_adapter(layer: _AdaptedLayer, weight: Tensor) -> Tensor:
    """What peft's own merge adds up, before it rounds."""
    for adapter in layer.active_adapters:
        variant = layer.lora_variant.get(adapter)  # DoRA, which scales the sum
        if variant is None:
            weight = weight + layer.get_delta_weight(adapter)
        else:
            weight = variant.merge_safe(layer, adapter, weight)
    return weight


def _plain_layer(base: Linear4bit, weight: Tensor) -> nn.Module:
    """A layer of the class that the model had before it was quantised; GPT-2's hold their weights transposed."""
    rows, columns = weight.shape
    if base.source_cls is nn.Linear:
        plain: nn.Module = nn.Linear(columns, rows, bias=base.bias is not None, device="meta")
    else:
        plain, weight = base.source_cls(rows, columns), weight.T.contiguous()
    plain.weight = nn.Parameter(weight)
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.detach().float().cpu())
    return plain
