"""The gradient of a step's loss, added up over passes and processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from trimtab.data.groups import CompletionGroup, cut_into_passes, pack
from trimtab.training.metrics import Means
from trimtab.training.step import ExtraLoss, Forward, PassLoss
from trimtab.training.weights import Weights


class Gradients:
    """Leaves gradients in the weights that are trained. wrapped: the model that is trained, as accelerate runs it.
    pass_tokens: packed tokens of a pass."""

    def __init__(self, accelerator: Accelerator, weights: Weights, wrapped: Forward, pass_tokens: int) -> None:
        self.accelerator, self.weights, self.wrapped, self.pass_tokens = accelerator, weights, wrapped, pass_tokens

    def of_loss(
        self,
        groups: Sequence[CompletionGroup],
        loss_of: PassLoss,
        total: float,
        max_norm: float,
        means: Means,
    ) -> tuple[float, float]:
        """Leaves the clipped gradient of the groups' loss in the weights. Returns the loss and the norm before."""
        acc, shared_out = self.accelerator, self.weights.shared_out
        passes = cut_into_passes(groups, self.pass_tokens)
        step_loss = 0.0
        for i, members in enumerate(passes):
            batch = pack(members).to(acc.device)
            # Of shared weights every pass gives its gradient away: to keep it would take the room of all of them.
            with nullcontext() if shared_out or i == len(passes) - 1 else acc.no_sync(self._module):
                # Gradients are averaged over processes; the total is over all of them, so their sum is wanted.
                loss, sums = loss_of(self.wrapped, batch, total / acc.num_processes)
                acc.backward(loss)
            means.add(sums)
            step_loss += float(loss.detach())
        for _ in range(self._missing(len(passes))):
            self._idle_pass()
        norm = acc.clip_grad_norm_(self.weights.trained.parameters(), max_norm)
        return step_loss, float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    @property
    def _module(self) -> nn.Module:
        assert isinstance(self.wrapped, nn.Module)
        return self.wrapped

    def _missing(self, passes: int) -> int:
        """How many passes this process must take part in beside its own: with shared weights each pass is of all
        processes, else one where it has none."""
        if self.accelerator.num_processes == 1:
            return 0
        if self.weights.shared_out:
            return int(max(gather_object([passes]))) - passes
        return 0 if passes else 1

    def _idle_pass(self) -> None:
        """Takes part in adding the gradients up, with nothing of this process's own."""
        batch = pack([CompletionGroup((0,), ((0,),))]).to(self.accelerator.device)
        out = self.wrapped(batch)
        parts = [out] if isinstance(out, Tensor) else [x for x in (out.logps, out.values) if x is not None]
        self.accelerator.backward(torch.stack([0.0 * x.sum() for x in parts]).sum())

    def add(self, extra: ExtraLoss, means: Means) -> tuple[float, float]:
        """Adds a second loss's gradient, clipped by itself, to the one in the weights. Returns loss and norm."""
        trained = [p for p in self.weights.trained.parameters() if p.requires_grad]
        kept = [p.grad for p in trained]
        for p in trained:
            p.grad = None
        loss_and_norm = self.of_loss(extra.groups, extra.loss, extra.total, extra.max_grad_norm, means)
        for p, grad in zip(trained, kept, strict=True):
            if grad is not None:
                p.grad = grad if p.grad is None else p.grad.add_(grad)
        return loss_and_norm
