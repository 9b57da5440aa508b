"""Parameters and memory of a stage from the model's config alone.

The model is built, and one training pass of it run, on tensors that have a shape and no data (torch's fake
tensors); every storage is counted from the operation that makes it to the moment that it is freed. So what a
plan counts is what the real code would hold: slices of the vocabulary, checkpoints, adapters and all.

On the CPU the peak that a stage reports is the process's resident memory, which has the interpreter and the
libraries in it; on CUDA it is what torch allocated.

Sizes are bytes.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from trimtab.data.groups import PackedBatch, pack
from trimtab.methods.on_policy_settings import OnPolicySettings
from trimtab.methods.online_dpo import NAME
from trimtab.models.buckets import attention_plan, buckets
from trimtab.models.kinds import check_role, kind_of
from trimtab.models.loading import spare_memory
from trimtab.models.lora import add_lora, parting_head
from trimtab.models.policy import Policy
from trimtab.models.quantized import BYTES
from trimtab.models.reward_model import RewardModel
from trimtab.models.settings import LoraSettings, Role
from trimtab.plan.work import Sampled, StageWork
from trimtab.training.weights import layers_of

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from transformers import PretrainedConfig


FLOAT = 4
EIGHT_BITS = 1 + 4 / 256
"""Bytes of a moment in eight bits: its code, and the scale of a block of 256."""
DRAW_BYTES = 36
"""Of a row's vocabulary while a token is drawn (rollout/transformers.py): five float32 and two int64 a logit."""
KEPT_BY_ALLOCATOR = 0.15
"""Of activations and passing tensors, on the CPU: freed pieces that stay the process's. Fitted to the four runs of
docs/plan.md."""
ID_BYTES = 40
"""Of a token id in a row that is held as Python numbers: its object and its place in the tuple."""


@dataclass(frozen=True)
class Parameters:
    """Weights, tied ones once. trained: those with a gradient. embeddings: those of the input embedding.
    saved_more: what a saved model has beside them, where an adapter is on the embeddings or on the head."""

    total: int
    trained: int
    embeddings: int
    saved_more: int = 0


def load_config(source: str, role: Role = "policy") -> PretrainedConfig:
    """A model's config, of a folder or a hub name; of an adapter's folder its base's. No weights are looked for,
    and no code that comes with it runs. TrimtabError for a model of a kind that does not serve."""
    kind = kind_of(source)
    check_role(kind, source, role)
    return kind.config


def build(
    config: PretrainedConfig, lora: LoraSettings | None, gradient_checkpointing: bool, reward: bool = False
) -> Policy | RewardModel:
    """A policy (or reward model) with random weights, on the device in force."""
    config = copy.deepcopy(config)  # attention is set in it
    if reward:
        config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False)
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    adapter = None
    if lora is not None:
        adapter = add_lora(model, lora, 0, config.name_or_path, head=model.score if reward else None)
    spare_memory(model, gradient_checkpointing)
    return RewardModel(model, adapter=adapter, new_head=True) if reward else Policy(model, "", adapter)


def without_data(
    config: PretrainedConfig, lora: LoraSettings | None, gradient_checkpointing: bool, reward: bool = False
) -> Policy | RewardModel:
    """What `build` gives, on torch's meta device."""
    with torch.device("meta"):
        return build(config, lora, gradient_checkpointing, reward)


def make_fake(policy: nn.Module) -> None:
    """Puts tensors of the mode in force, which say that they are on the CPU, in place of meta ones."""
    fakes: dict[int, Tensor] = {}  # tied weights stay tied

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in fakes:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            trained = tensor.requires_grad
            fakes[id(tensor)] = nn.Parameter(empty, trained) if isinstance(tensor, nn.Parameter) else empty
        return fakes[id(tensor)]

    kept = [list(policy.parameters()), list(policy.buffers())]  # alive, so that no id is used twice
    for module in policy.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                held[name] = None if tensor is None else fake(tensor)  # type: ignore[assignment]
    del kept


def count_parameters(source: str, lora: LoraSettings | None = None, role: Role = "policy") -> Parameters:
    """The sizes of a model, as its config has them and with an adapter where LoRA adds one."""
    return parameters_of(without_data(load_config(source, role), lora, False))


def parameters_of(policy: Policy | RewardModel) -> Parameters:
    """The sizes of a model that is there, without data or with it."""
    weights = list(policy.parameters())
    return Parameters(
        sum(p.numel() for p in weights),
        sum(p.numel() for p in weights if p.requires_grad),
        int(policy.model.get_input_embeddings().weight.numel()),
        _saved_more(policy),
    )


def _saved_more(policy: Policy | RewardModel) -> int:
    """peft writes an end that has an adapter once more, beside the adapter; merging parts tied ends."""
    if isinstance(policy, RewardModel) or policy.adapter is None:  # a reward model keeps no adapter beside it
        return 0
    ends = [policy.model.get_input_embeddings(), policy.model.get_output_embeddings()]
    twice = [end.base_layer for end in ends if hasattr(end, "base_layer")]
    head = parting_head(policy.adapter)
    parted = [] if head is None else [getattr(head, "base_layer", head)]
    return sum(int(end.weight.numel()) for end in [*twice, *parted])


def frozen_linear(policy: Policy | RewardModel) -> list[int]:
    """Weights of each layer that lora.quantize holds in four bits: the frozen linear ones but the head."""
    head = policy.model.get_output_embeddings()
    layers = [m for m in policy.model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]
    return [m.weight.numel() for m in layers if not m.weight.requires_grad]


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that are alive, and the most that were at once."""

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in held:
            self._hold(tensor)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return

        def freed(_: object) -> None:
            self.now -= size
            self.seen.pop(key, None)

        self.seen[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class Traced:
    """Bytes of a pass beside weights, gradients and moments: what the forward pass leaves for the backward pass,
    and the most at any moment of the two. evaluated: the most of a pass without gradients."""

    activations: int
    peak: int
    evaluated: int


def trace(policy: Policy | RewardModel, batch: PackedBatch, precision: str, accumulated: bool) -> Traced:
    """One pass of a model of fake tensors, under their mode. accumulated: an earlier pass left its gradients."""
    scores = isinstance(policy, RewardModel)
    weights = [*policy.parameters(), *policy.buffers()]
    for p in policy.parameters():
        p.grad = torch.empty_like(p) if accumulated and p.requires_grad else None
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with Live([*weights, *grads]) as live:
            start = live.now
            out = policy(batch) if scores else policy(batch, entropy=True).logps
            kept = live.now
            out.sum().backward()
        del out
        for p in policy.parameters():
            p.grad = None
        with torch.no_grad(), Live(weights) as quiet:
            before = quiet.now
            policy(batch) if scores else policy(batch, entropy=True)
    return Traced(kept - start, live.peak - start, quiet.peak - before)


@dataclass(frozen=True)
class Gathered:
    """Bytes of a pass over weights that are shared out. weights: what is whole at once, which is all outside the
    layers, the layer that computes and the next one. gradients: of the largest, before it is given away."""

    weights: int
    gradients: int

    @classmethod
    def of(cls, policy: nn.Module) -> Gathered:
        """Of a model, with data or without."""
        layers = [{id(p): p for p in layer.parameters()} for layer in layers_of(policy)]
        inside = {key for layer in layers for key in layer}
        groups = [*layers, {id(p): p for p in policy.parameters() if id(p) not in inside}]
        weights = [FLOAT * sum(p.numel() for p in group.values()) for group in groups]
        trained = [FLOAT * sum(p.numel() for p in group.values() if p.requires_grad) for group in groups]
        return cls(weights[-1] + sum(sorted(weights[:-1])[-2:]), max(trained))


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the moment of the stage that needs most. phase: that moment."""

    phase: str
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All parts together, in bytes."""
        return sum(self.parts.values())


def stage_memory(
    work: StageWork, config: PretrainedConfig, precision: str, on_gpu: bool, local_models: int, processes: int = 1
) -> Memory:
    """The peak of a stage, in each of its processes. local_models: bytes of judges and rewards that are models on
    this device."""
    lora = work.settings.lora
    batch = pack(work.largest)
    attention_plan(batch)
    buckets(batch)  # made of lengths, which have to be real
    policy = without_data(config, lora, work.settings.gradient_checkpointing, work.is_reward_model)
    sizes = parameters_of(policy)
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake(policy)
        traced = trace(policy, batch, precision, work.several_passes)
    fixed = {"weights": FLOAT * sizes.total}
    if lora is not None and lora.quantize is not None:
        packed = frozen_linear(policy)
        fixed["weights"] -= int((FLOAT - BYTES) * sum(packed))
        fixed["a layer read back from four bits"] = FLOAT * max(packed, default=0)
    if isinstance(work.settings, OnPolicySettings):
        fixed["reference"] = FLOAT * (sizes.trained if lora else sizes.total)
    if isinstance(work.settings, OnPolicySettings) or local_models:
        fixed["reward and judge models"] = local_models
    if not on_gpu:
        fixed["interpreter, libraries and rows"] = resident() + int(ID_BYTES * work.held_tokens)
    each = EIGHT_BITS if work.settings.optimizer == "adamw_8bit" else FLOAT
    moments = {"Adam's moments": int(2 * each * sizes.trained)}
    gradients = FLOAT * sizes.trained
    whole: dict[str, int] = {}
    # With a single pass the gradients come while the activations go; with several they are there from the first.
    over = max(traced.peak, 0) if not work.several_passes else traced.peak + gradients
    over = max(over, gradients)
    activations = max(0, min(traced.activations, over - gradients))
    held_gradients = gradients
    if work.settings.sharding != "none" and processes > 1:
        gathered = Gathered.of(policy)
        whole = {"weights, gathered from all": fixed["weights"]}
        fixed["weights"] = -(-fixed["weights"] // processes)
        moments = {name: -(-size // processes) for name, size in moments.items()}
        held_gradients = -(-gradients // processes) + gathered.gradients
    training = {
        **fixed, **moments, "gradients": held_gradients, "activations": activations,
        "logits slice and passing": over - gradients - activations,
    }  # fmt: skip
    if whole:
        training["layers, gathered while they compute"] = gathered.weights
    if not on_gpu:
        training["kept by the allocator"] = int(KEPT_BY_ALLOCATOR * (over - gradients))
    phases = [Memory("a training pass", training)]
    for sampled in (work.rollouts, work.validation_samples, work.penalty):
        if sampled is not None:
            held = fixed if work.method == NAME else {**fixed, **moments}  # a round draws before it trains
            kept = held | whole | ({"gradients": held_gradients} if sampled is work.penalty else {})
            phases.append(Memory("sampling", kept | sampling_memory(config, sampled)))
    phases.append(Memory("evaluation", {**fixed, **moments, **whole, "evaluation pass": traced.evaluated}))
    return max(phases, key=lambda phase: phase.total)


def sampling_memory(config: PretrainedConfig, sampled: Sampled) -> dict[str, int]:
    """Keys and values of the rows that are decoded together, with the room that they grow by, and the draw."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_column = 2 * FLOAT * text.num_hidden_layers * heads * size
    columns = 1.5 * (sampled.prompt_tokens + sampled.cap) + 32
    return {
        "keys and values": int(sampled.together * columns * per_column),
        "draw over the vocabulary": DRAW_BYTES * sampled.together * text.vocab_size,
    }


def resident() -> int:
    """Of this process: the interpreter and the libraries, which a stage has too."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.is_file() else 0


def module_bytes(source: str) -> int:
    """Float32 bytes of a local classifier's weights, by its config."""
    config = load_config(source, "reward model")
    with torch.device("meta"):
        model: nn.Module = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return FLOAT * sum(p.numel() for p in model.parameters())
