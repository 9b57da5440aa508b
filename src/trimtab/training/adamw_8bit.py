"""AdamW whose moments are held in eight bits: Dettmers et al. 2022 (arXiv 2110.02861), by bitsandbytes.

Each block of 256 moments has its own scale, and each moment is one of 256 values of a dynamic data type: 2.03 bytes
a weight for both instead of 8. Tensors below 4,096 weights keep float32 moments, as in the paper's library.
"""

from __future__ import annotations

import torch
from bitsandbytes.functional import optimizer_update_8bit_blockwise
from bitsandbytes.optim import AdamW8bit
from torch import Tensor

from trimtab.json_types import JsonObject

BLOCK = 256
"""Moments that share a scale, in bitsandbytes."""
PIECE = 2**14 * BLOCK
"""Weights that are read back to float32 together on a CPU: four buffers of 16 MiB, instead of four as large as the
embedding."""


class AdamW8bitInPieces(AdamW8bit):  # type: ignore[misc]
    """bitsandbytes' own; on a CPU large tensors are taken piece by piece, to the same numbers: blocks are apart."""

    @torch.no_grad()
    def update_step(self, group: JsonObject, p: Tensor, gindex: int, pindex: int) -> None:
        """One step of one tensor, whose gradient is p.grad."""
        state = self.state[p]
        if p.device.type != "cpu" or state["state1"].dtype != torch.uint8 or p.numel() <= PIECE:
            super().update_step(group, p, gindex, pindex)
            return
        assert p.grad is not None
        config = self.get_config(gindex, pindex, group)
        state["step"] += 1
        flat = [x.view(-1) for x in (p.grad.contiguous(), p.data, state["state1"], state["state2"])]
        for lo in range(0, p.numel(), PIECE):
            grad, weight, first, second = (x[lo : lo + PIECE] for x in flat)
            scales = slice(lo // BLOCK, (lo + PIECE) // BLOCK)
            optimizer_update_8bit_blockwise(
                self.optimizer_name, grad, weight, first, second, *config["betas"], 0.0, 0.0, config["eps"],
                state["step"], config["lr"], state["qmap1"], state["qmap2"],
                state["absmax1"][scales], state["absmax2"][scales], config["weight_decay"],
                gnorm_scale=1.0, skip_zeros=config["skip_zeros"],
            )  # fmt: skip
