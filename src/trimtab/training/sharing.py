"""Weights, gradients and moments shared out among processes, by PyTorch's fully_shard (FSDP2).

There are two models then. `trained` holds a part of every weight in each process, layer by layer whole only while
it computes; the optimizer changes it, and nothing else runs it than the passes of a step. `policy` is the plain
model that methods sample from, read, validate and save: its weights are there inside `whole()`, in every process,
and take no room outside.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from trimtab.notices import warn
from trimtab.training.weights import Weights, layers_of


class SharedWeights(Weights):
    """A model of which each process holds a part (Zhao et al. 2023, arXiv 2304.11277, with a group for each layer).

    The copy that is trained is made of the policy as it is; the policy's own weights then go.
    """

    shared_out = True

    def __init__(self, policy: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(policy)
        # Another structure on the same tensors, of which each process then takes a copy of its part.
        self.trained = copy.deepcopy(policy, {id(weight): weight for weight in policy.parameters()})
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        layers = layers_of(self.trained)
        if not layers:
            warn("sharding: this model names no layers: all of its weights are gathered at once", about="sharding")
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.trained, mesh=mesh)
        self._inside = 0
        self._give_up()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, `policy` has its weights, gathered from all processes, every one of which must come here."""
        if self._inside == 0:
            self._gather()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._give_up()

    def train(self, mode: bool = True) -> None:
        """Sets whether dropout is at work, in both models."""
        self.policy.train(mode)
        self.trained.train(mode)

    @torch.no_grad()
    def _gather(self) -> None:
        for weight, part in zip(self.policy.parameters(), self.trained.parameters(), strict=True):
            detached = part.detach()
            assert isinstance(detached, DTensor)
            weight.data = detached.full_tensor()

    def _give_up(self) -> None:
        """Leaves the weights their shapes: one number stands for all of each."""
        for weight in self.policy.parameters():
            weight.data = torch.zeros((), dtype=weight.dtype, device=weight.device).expand(weight.shape)


# ---- checkpoints that all processes write and read


def write_parts(
    folder: Path | None, trained: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Every process writes its parts of the weights and moments. folder: the main process's; None in the others.
    trained: what training changes, by name."""
    (told,) = broadcast_object_list([None if folder is None else str(folder)])
    save_parts(_parts(trained, model, optimizer), checkpoint_id=told)


def read_parts(
    folder: Path, trained: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Reads what any number of processes wrote into the weights and moments of this number, shared out or not.
    Tensors are read into their place; trained: see write_parts."""
    alone = not torch.distributed.is_initialized()
    parts = _parts(trained, model, optimizer)
    load_parts(parts, checkpoint_id=str(folder), no_dist=alone)
    set_optimizer_state_dict(model, _plain(optimizer), parts["optimizer"])


def _parts(
    trained: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Any]]:
    return {"model": trained, "optimizer": get_optimizer_state_dict(model, _plain(optimizer))}


def _plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The one that accelerate wraps."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


Item = TypeVar("Item")


def laid_like(weight: Tensor, whole: Item) -> Item | Tensor:
    """A whole tensor as `weight` lies: this process's part of it where that is shared out. Anything else, and a
    tensor of another shape: as it is."""
    if isinstance(weight, DTensor) and isinstance(whole, Tensor) and whole.shape == weight.shape:
        return distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements)
    return whole
