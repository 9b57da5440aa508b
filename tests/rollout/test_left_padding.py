"""Padding on the left, as transformers' generate has it, through our attention function."""

from __future__ import annotations

import pytest
import torch

from models.families import make
from trimtab.models.policy import Policy


@pytest.mark.parametrize("family", ["gemma2", "qwen2"])
def test_a_row_padded_on_the_left_has_the_logits_that_it_has_alone(family: str) -> None:
    """The padding itself sees nothing: its rows must not become NaN, which would spread through the keys."""
    policy = Policy(make(family)).eval()
    long, short = [5, 6, 7, 8, 9, 10], [11, 12]
    pad = len(long) - len(short)
    ids = torch.tensor([long, [3] * pad + short])
    mask = torch.tensor([[1] * len(long), [0] * pad + [1] * len(short)])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        both = policy.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        alone = policy.model(input_ids=torch.tensor([short])).logits
    assert torch.allclose(both[1, pad:], alone[0], atol=1e-5)
