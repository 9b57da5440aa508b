"""PyTorch and httpx, loaded when something of them is first used and not where they are named: that takes time.

    from trimtab.late import F, torch

For files that are read with the settings, so that a wrong setting is told at once. What a class is made from (a
module of torch.nn) or a decorator is used at once, and wants the library itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx as httpx
    import torch as torch
    import torch.nn.functional as F
else:

    class _Late:
        """Stands for a module, which it loads for the first of its names that is asked for."""

        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, name: str) -> object:
            return getattr(import_module(self._module), name)

    httpx, torch, F = _Late("httpx"), _Late("torch"), _Late("torch.nn.functional")

__all__ = ["F", "httpx", "torch"]
