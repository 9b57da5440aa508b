"""The length encoding of supervised fine-tuning: each completion is trained on under a countdown to its own end.

models/length_encoding.py has the encoding itself; here are its settings, what the data decide of it, and the
slack that makes a target an upper bound (docs/methods/length_encoding.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch

from trimtab.data.groups import CompletionGroup
from trimtab.errors import TrimtabError
from trimtab.methods.sft_settings import LengthEncodingSettings
from trimtab.models.length_encoding import COUNTS_FROM, LengthEncoding, scale_for
from trimtab.models.policy import Policy

CAVEAT = (
    "The SFT model has a length encoding: it and what starts from it answer at the length that they are asked for, "
    "and their perplexity is given each reference's length: it does not compare with others'."
)
"""What reports say of its results."""


def make_encoding(
    settings: LengthEncodingSettings, policy: Policy, train: Sequence[CompletionGroup]
) -> LengthEncoding:
    """The settings with what the starting model and the data decide. TrimtabError where the data have no length."""
    whole = [len(group.completions[0]) for group in train if not any(group.truncated)]
    if not whole:
        raise TrimtabError(
            "length_encoding: every training completion was cut, so none has an end to count down to. "
            "Raise data.max_length."
        )
    return LengthEncoding(
        scale=scale_for(policy.model.get_input_embeddings(), settings.strength),
        base=settings.base,
        target_length=settings.target_length or statistics.median_low(whole),
        slack=settings.slack,
    )


def with_slack(
    groups: Sequence[CompletionGroup], encoding: LengthEncoding | None, seed: int, step: int
) -> Sequence[CompletionGroup]:
    """The groups with what this step counts down from: drawn anew in every step, where the encoding has slack."""
    if encoding is None or not encoding.slack:
        return groups
    draws = np.random.default_rng([seed, step, 1]).random(len(groups)).tolist()
    starts = [
        0 if any(group.truncated) else _slackened(group, encoding.slack, draw)
        for group, draw in zip(groups, draws, strict=True)
    ]
    return [
        group.with_columns(**{COUNTS_FROM: torch.tensor([start] * len(group.completions))})
        for group, start in zip(groups, starts, strict=True)
    ]


def _slackened(group: CompletionGroup, slack: float, draw: float) -> int:
    """The completion's length and a share `draw`, of [0, 1), of the slack: each whole number equally likely."""
    length = len(group.completions[0])
    return length + int(draw * (int(slack * length) + 1))
