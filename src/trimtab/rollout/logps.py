"""What a model gives completions that are there already: log-probabilities without gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trimtab.data.groups import CompletionGroup, cut_places, pack
from trimtab.models.policy import Policy, PolicyOutput

AT_ONE = "logps_at_one"
"""Of PolicyOutput's, the one that is computed only where it is asked for."""


@contextmanager
def evaluating(policy: Policy) -> Iterator[None]:
    """Without gradients and in evaluation mode; every module's own mode is restored."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        # Older torch keeps weights that autocast has cast in here without a gradient (pytorch's pull request
        # 165068): a training step under the same autocast must not find them.
        torch.clear_autocast_cache()


def logps_of(
    forward: Callable[..., PolicyOutput],
    groups: Sequence[CompletionGroup],
    temperatures: Sequence[Sequence[float]] | None,
    token_budget: int,
    device: torch.device,
) -> list[list[Tensor]]:
    """A model's log-probabilities of each group's completions, without gradient; on the CPU.

    temperatures: of each completion; None: 1.
    """
    return read_off(forward, groups, temperatures, token_budget, device, ("logps",))["logps"]


def read_off(
    forward: Callable[..., PolicyOutput],
    groups: Sequence[CompletionGroup],
    temperatures: Sequence[Sequence[float]] | None,
    token_budget: int,
    device: torch.device,
    names: Sequence[str],
) -> dict[str, list[list[Tensor]]]:
    """logps_of for several of a policy's outputs by token: `names` are PolicyOutput's."""
    out: dict[str, list[list[Tensor]]] = {name: [[] for _ in groups] for name in names}
    with torch.no_grad():
        for places in cut_places(groups, token_budget):
            batch = pack([groups[i] for i in places]).to(device)
            per_token = None
            if temperatures is not None:
                each = [t for i in places for t in temperatures[i]]
                per_token = torch.tensor(each, device=device)[batch.owner]
            more = {"at_one": True} if AT_ONE in names else {}
            output = forward(batch, temperature=per_token, **more)
            for name in names:
                pieces = iter(getattr(output, name).cpu().split(batch.lengths.tolist()))
                for i in places:
                    out[name][i] = [next(pieces) for _ in groups[i].completions]
    return out
