"""Perplexity and bits per byte of given completions.

Both are over all completion tokens, end of turn included, weighted by token: not a mean of sentences'
perplexities. Bits per byte divides by the UTF-8 bytes of the text, so that tokenizers compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup, cut_into_passes, pack
from trimtab.devices import in_float64
from trimtab.models.policy import Policy
from trimtab.progress import Progress


class Fluency(NamedTuple):
    """perplexity: exp of nats a token. bits_per_byte: bits over bytes. tokens: how many were predicted."""

    perplexity: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def fluency(
    policy: Policy,
    chat: ChatFormat,
    groups: Sequence[CompletionGroup],
    token_budget: int = 4096,
    device: torch.device | str = "cpu",
) -> Fluency:
    """Over every completion of the groups."""
    nats, tokens, size = 0.0, 0, 0
    work = sum(group.packed_length for group in groups)
    with Progress("perplexity", len(groups), "answers", work=work) as progress:
        for members in cut_into_passes(groups, token_budget):
            logps_M = policy(pack(members).to(device)).logps
            nats -= float(in_float64(logps_M).sum())
            tokens += logps_M.numel()
            read = sum(group.packed_length for group in members)
            progress.advance(len(members), tokens=read, work=read)
    for group in groups:
        for completion in group.completions:
            size += len(chat.tokenizer.decode(completion, skip_special_tokens=True).encode("utf-8"))
    if not tokens or not size:
        raise ValueError("no completion tokens to measure perplexity on")
    return Fluency(math.exp(nats / tokens), nats / math.log(2) / size, tokens)
