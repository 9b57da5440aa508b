"""A policy's weights: whole in every process, or shared out among them (sharing.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import nn

from trimtab.training.schedule import TrainingSettings


class Weights:
    """A model of which each process holds all weights: what is trained and what is read are one."""

    shared_out = False

    def __init__(self, policy: nn.Module) -> None:
        self.policy = self.trained = policy

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, `policy` has its weights. Every process must come here."""
        yield

    def train(self, mode: bool = True) -> None:
        """Sets whether dropout is at work."""
        self.policy.train(mode)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that are gathered one at a time: those that transformers would not split between devices."""
    names: set[str] = set()
    for module in model.modules():
        names |= set(getattr(module, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    inner = {id(part) for module in found for part in module.modules() if part is not module}
    return [module for module in found if id(module) not in inner and any(True for _ in module.parameters())]


def weights_of(policy: nn.Module, settings: TrainingSettings, accelerator: Accelerator) -> Weights:
    """The policy's weights, shared out among the processes where the settings say so and there are several."""
    if settings.sharding == "fsdp2" and accelerator.num_processes > 1:
        from trimtab.training.sharing import SharedWeights  # loads what few runs need

        return SharedWeights(policy, accelerator)
    return Weights(policy)
