"""Tensors that say they are on a Mac's GPU, and a record of what is asked of it.

Nothing is known of a Mac here but what torch ships: `native_functions.yaml` says which operators have a kernel for
MPS, which are made of others, and which have neither. Numbers are computed on the CPU. Which attention kernel
runs is decided in C++, by the device: here in `_function`. Autocast is the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import yaml
from accelerate.state import AcceleratorState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

MPS = torch.device("mps", 0)
TABLE = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
WIDE = {torch.float64, torch.complex128}
"""Metal has neither."""


@cache
def _table() -> dict[str, dict[str, Any]]:
    entries = yaml.load(TABLE.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {entry["func"].partition("(")[0]: entry for entry in entries}


def _keys(entry: dict[str, Any]) -> set[str]:
    return {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}


@cache
def has_kernel(name: str) -> bool:
    """Whether MPS runs an operator, "add.Tensor": by a kernel of its own, or by one for any device."""
    entry = _table().get(name)
    if entry is None:  # generated from its in-place or functional twin
        base, _, overload = name.partition(".")
        return overload.endswith("out") and has_kernel(base.removesuffix("_"))
    keys = _keys(entry)
    if "structured_delegate" in entry:
        keys |= _keys(_table()[entry["structured_delegate"]])
    return not keys or "MPS" in keys or any(key.startswith("Composite") for key in keys)


class Record:
    """asked: operators, by name. lacking: those that MPS does not run, and types that it does not have."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.lacking: set[str] = set()

    def note(self, func: Any, out: Any) -> None:
        name = func._schema.name.removeprefix("aten::") + (
            f".{func._schema.overload_name}" if func._schema.overload_name else ""
        )
        self.asked.add(name)
        if func.namespace != "aten" or not has_kernel(name):
            self.lacking.add(f"{func.namespace}::{name}")
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype in WIDE:
                self.lacking.add(f"{name} in {tensor.dtype}")


RECORD = Record()


class OnMps(torch.Tensor):
    """A tensor of the CPU that says it is on MPS."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnMps:
        made: OnMps = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return MPS

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnMps({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _function(func, args, kwargs or {}, _usual, types)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _ToCpu(torch.autograd.Function):
    """What `.cpu()` does: C++ believes that the tensor is there already."""

    @staticmethod
    def forward(ctx: Any, x: OnMps) -> torch.Tensor:
        return x.held.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return OnMps(_held(grads[0]))


class _ToMps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        RECORD.note(torch.ops.aten._to_copy.default, x)
        return OnMps(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        held: torch.Tensor = _held(grads[0])
        return held


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnMps) else x


def _usual(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _function(func: Any, args: Any, kwargs: Any, usual: Callable[..., Any], types: Any) -> Any:
    first = args[0] if args else None
    if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.data_ptr, torch.Tensor.untyped_storage):
        return func(_held(first), *args[1:], **kwargs)
    if func is torch.Tensor.cpu:
        return _ToCpu.apply(first)
    if func is torch._C._nn.pad_sequence:  # makes its output by what C++ believes
        longest = max(map(len, first))
        return torch.stack([torch.cat([row, row.new_zeros(longest - len(row))]) for row in first])
    if func is torch.Tensor.to:
        return _to(args, kwargs, usual, types)
    if func in (torch.tensor, torch.as_tensor) and _on_mps(kwargs.get("device")):
        return _ToMps.apply(func(*args, **{name: value for name, value in kwargs.items() if name != "device"}))
    if func is torch.nn.functional.scaled_dot_product_attention:
        heads = kwargs.pop("enable_gqa", False)
        return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs, enable_gqa=heads)[0]
    return usual(func, types, args, kwargs)


def _on_mps(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "mps"


def _to(args: Any, kwargs: Any, usual: Callable[..., Any], types: Any) -> Any:
    x, *rest = args
    rest = [*rest, kwargs.get("device"), kwargs.get("dtype"), kwargs.get("other")]
    other = next((value for value in rest if isinstance(value, torch.Tensor)), None)
    asked = next((torch.device(value) for value in rest if isinstance(value, (str, torch.device))), None)
    kind = next((value for value in rest if isinstance(value, torch.dtype)), None)
    if other is not None:
        asked, kind = other.device, other.dtype
    here = isinstance(x, OnMps)
    if asked is not None and (asked.type == "mps") != here:
        if kind in WIDE and here:
            x, kind = _ToCpu.apply(x), kind
        elif kind is not None:  # cast where it comes from
            x, kind = usual(torch.Tensor.to, types, (x, kind), {}), None
        x = x if isinstance(x, OnMps) != here else (_ToCpu if here else _ToMps).apply(x)
    return x if kind in (None, x.dtype) else usual(torch.Tensor.to, types, (x, kind), {})


def _is_mps(x: Any) -> bool:
    return isinstance(x, torch.device) and x.type == "mps"


def _dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    flat: list[Any] = []
    tree_map(flat.append, (args, kwargs))
    ours = any(isinstance(x, OnMps) or _is_mps(x) for x in flat)
    plain_args, plain_kwargs = tree_map(lambda x: torch.device("cpu") if _is_mps(x) else _held(x), (args, kwargs))
    out = func(*plain_args, **plain_kwargs)
    if not ours:
        return out
    RECORD.note(func, out)
    given = {id(_held(x)): x for x in flat if isinstance(x, torch.Tensor)}
    # What an operator writes into is returned as it came.
    return tree_map(lambda x: given.get(id(x), OnMps(x)) if isinstance(x, torch.Tensor) else x, out)


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _function(func, args, kwargs or {}, lambda f, _, a, k: f(*a, **k), types)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


_MODULE_TO = torch.nn.Module.to


def _module_to(module: torch.nn.Module, device: Any = None, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """`module.to(device)`: torch would put our tensors' storage, which is none, into its parameters."""
    moved: dict[int, Any] = {}

    def on_mps(x: Any) -> Any:
        if isinstance(x, OnMps):
            return x
        if id(x) not in moved:
            made = OnMps(x.detach().clone())
            moved[id(x)] = torch.nn.Parameter(made, x.requires_grad) if isinstance(x, torch.nn.Parameter) else made
        return moved[id(x)]

    if not _on_mps(device):
        return _MODULE_TO(module, device, *args, **kwargs)
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            kept.update({name: x if x is None else on_mps(x) for name, x in kept.items()})
    return module


@contextmanager
def pretending(patch: pytest.MonkeyPatch) -> Iterator[Record]:
    """While it lasts, this machine has MPS. Yields the record of what is asked of it."""
    RECORD.asked, RECORD.lacking = set(), set()
    patch.setattr(torch.backends.mps, "is_available", lambda: True)
    patch.setattr(torch.backends.mps, "is_built", lambda: True)
    patch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: True)
    patch.setattr(torch.mps, "driver_allocated_memory", lambda: 2**20)
    patch.setattr(torch.mps, "synchronize", lambda: None)
    patch.setattr(torch.mps, "empty_cache", lambda: None)
    patch.setattr(torch.mps, "get_rng_state", lambda: torch.zeros(4, dtype=torch.uint8))
    patch.setattr(torch.mps, "set_rng_state", lambda state: None)
    autocast = torch.autocast
    patch.setattr(
        torch, "autocast", lambda kind, *args, **more: autocast(kind.replace("mps", "cpu"), *args, **more)
    )
    patch.setattr(torch.nn.Module, "to", _module_to)
    patch.setattr("accelerate.state.is_mps_available", lambda *args: True)
    for module in ("peft.utils.save_and_load", "peft.peft_model"):
        patch.setattr(f"{module}.infer_device", lambda: "cpu")  # files are read by C++
    patch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "")  # accelerate sets it: to be taken back
    AcceleratorState._reset_state(True)
    try:
        with _Mode(), _Functions():
            yield RECORD
    finally:
        AcceleratorState._reset_state(True)  # which keeps the device for all that comes after
