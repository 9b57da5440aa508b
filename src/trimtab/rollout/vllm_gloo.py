"""Weights on their way to a vLLM server by gloo: a transport for vLLM's own interface, for machines without NCCL.

vLLM registers it under the name `gloo` wherever trimtab is installed beside it (vllm_plugin.py). Both ends are
here: the server's worker receives each weight by a broadcast, in the order and shapes that the trainer has named,
and loads it as it would from a checkpoint. Source of the protocol: vllm/distributed/weight_transfer/base.py of
vLLM 0.32.
"""

from __future__ import annotations

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from trimtab.rollout.vllm import repack

PATIENCE = timedelta(minutes=5)
"""For the other end to come, and for one weight."""


@dataclass
class GlooInit(WeightTransferInitInfo):
    """Where the trainer listens, and how many take part: the trainer, which is rank 0, and every worker."""

    address: str
    port: int
    world_size: int


@dataclass
class GlooUpdate(WeightTransferUpdateInfo):
    """What is broadcast, in this order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


@dataclass
class GlooTrainerInit(TrainerInitInfo):
    """See GlooInit; port 0: any free one."""

    backend: ClassVar[str] = "gloo"
    address: str
    world_size: int
    port: int = 0


def _group(address: str, port: int, rank: int, size: int) -> tuple[Any, TCPStore]:
    store = TCPStore(address, port, size, rank == 0, PATIENCE, wait_for_workers=False)
    return ProcessGroupGloo(PrefixStore("weights", store), rank, size, PATIENCE), store


def reload(name: str) -> Any:
    """A function of vLLM's for weights that come while it serves."""
    return getattr(importlib.import_module("vllm.model_executor.model_loader.reload"), name)


class GlooReceiver(WeightTransferEngine[GlooInit, GlooUpdate]):
    """A worker's end."""

    init_info_cls = GlooInit
    update_info_cls = GlooUpdate
    group: Any = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Joins the trainer's group, in the place of a trainer that was there before."""
        parallel = self.parallel_config
        rank = 1 + parallel.data_parallel_index * parallel.world_size + parallel.rank
        self.group, self._store = _group(init_info.address, init_info.port, rank, init_info.world_size)

    def start_weight_update(self) -> None:
        """Has the layers take weights as a checkpoint has them, though they keep them in other layouts."""
        reload("initialize_layerwise_reload")(self.model)

    def receive_weights(self, update_info: GlooUpdate) -> None:
        """Loads each weight as it comes."""
        if self.group is None:
            raise RuntimeError("no trainer has joined: call init_weight_transfer_engine first")
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.broadcast(weight, 0).wait()
            self.model.load_weights([(name, weight.to(self.device))])

    def finish_weight_update(self) -> None:
        """Has the layers put what came into their own layouts, packed copies on a CPU included."""
        reload("finalize_layerwise_reload")(self.model, self.model_config)
        repack(self.model)

    def shutdown(self) -> None:
        """Leaves the group."""
        self.group = None


class GlooSender(TrainerWeightTransferEngine[GlooTrainerInit]):
    """The trainer's end."""

    init_info_cls = GlooTrainerInit

    @classmethod
    def trainer_init(cls, init_info: GlooTrainerInit, *, client: Any, source: Any = None) -> Self:
        """Opens a store, and has the workers join while it waits for them."""
        made = cls(client=client, source=source, is_sender=init_info.is_sender)
        size = init_info.world_size
        made.store = TCPStore(init_info.address, init_info.port, size, True, PATIENCE, wait_for_workers=False)
        asked = GlooInit(init_info.address, made.store.port, size)
        with ThreadPoolExecutor(1) as beside:
            joined = beside.submit(client.init_weight_transfer_engine, asdict(asked))
            made.group = ProcessGroupGloo(PrefixStore("weights", made.store), 0, size, PATIENCE)
            joined.result()
        return made

    store: TCPStore
    group: Any

    def send_weights(self) -> None:
        """Broadcasts every weight of the source while the workers receive."""
        assert self.source is not None
        named = self.source.metadata()
        update = GlooUpdate(
            [one.name for one in named],
            [str(one.dtype).removeprefix("torch.") for one in named],
            [list(one.shape) for one in named],
        )
        self.client.start_weight_update()
        with ThreadPoolExecutor(1) as beside:
            received = beside.submit(self.client.update_weights, asdict(update))
            for _, weight in self.source:
                sent = self.group.broadcast(_on_cpu(weight), 0)
                while not sent.is_completed() and not received.done():
                    time.sleep(0.0005)
                if not sent.is_completed():
                    break  # they have given up: nobody takes what comes
            received.result()
        self.client.finish_weight_update()


def _on_cpu(weight: Tensor) -> Tensor:
    return weight.detach().cpu().contiguous()
