"""Perplexity and bits per byte of given completions.

Both are over all completion tokens, end of turn included, weighted by token: not a mean of sentences'
perplexities. Bits per byte divides by the UTF-8 bytes of the text itself, so that tokenizers compare: tokens that
are decoded alone lose a leading space where the tokenizer is sentencepiece's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup, cut_into_passes, pack
from trimtab.data.records import Record
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
    records: Sequence[Record],
    token_budget: int = 4096,
    device: torch.device | str = "cpu",
) -> Fluency:
    """Over every completion of the groups. records: what the groups were made of; a group's index is its place
    there, and its completion the record's first."""
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
        size += _bytes(chat, group, records[group.index])
    if not tokens or not size:
        raise ValueError("no completion tokens to measure perplexity on")
    return Fluency(math.exp(nats / tokens), nats / math.log(2) / size, tokens)


def _bytes(chat: ChatFormat, group: CompletionGroup, record: Record) -> int:
    """UTF-8 bytes of what a group's one completion says: of its text, or of what truncation left of it."""
    if any(group.truncated):
        return _bytes_of_tokens(chat, group.completions[0])
    return len(_text(chat, record).encode("utf-8", "surrogatepass"))


def _text(chat: ChatFormat, record: Record) -> str:
    """What the template shows of a record's first completion behind the prompt: what its tokens spell."""
    prompt, completion = chat.plain_without_template(record.prompt), chat.target_text(record.completions[0])
    messages = chat.messages(prompt)
    marked = chat.content.marked(completion) if messages is None else chat.split_answer(messages, completion)[1]
    return chat.content.unmarked(marked)


def _bytes_of_tokens(chat: ChatFormat, tokens: Sequence[int]) -> int:
    """Of tokens that stand behind others, as a completion's do."""
    before = chat.content.ids("\n")
    shorter, longer = (
        chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, *tokens])
    )
    return len(longer.encode("utf-8")) - len(shorter.encode("utf-8"))
