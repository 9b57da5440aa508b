"""What a model gives completions that are there already, at two temperatures by one pass."""

from __future__ import annotations

import pytest
import torch

from models.families import make
from trimtab.data.groups import CompletionGroup
from trimtab.models.policy import Policy
from trimtab.rollout.logps import AT_ONE, logps_of, read_off

GROUPS = [
    CompletionGroup((3, 4, 5), ((6, 7), (8, 9, 10, 11))),
    CompletionGroup((12, 13), ((14,), (15, 16, 17))),
]
WARM = [[0.5, 1.7], [1.0, 2.0]]


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
def test_both_temperatures_of_one_pass_are_those_of_two(family: str) -> None:
    """A family with the tree, one whose logits have a cap, and one of padded rows."""
    policy, cpu = Policy(make(family)).eval(), torch.device("cpu")
    both = read_off(policy, GROUPS, WARM, 64, cpu, ("logps", AT_ONE))
    at_one, warm = (logps_of(policy, GROUPS, given, 64, cpu) for given in (None, WARM))
    for found, expected in ((both["logps"], warm), (both[AT_ONE], at_one)):
        for of_group, wanted in zip(found, expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(of_group, wanted, strict=True))
    assert not torch.equal(both["logps"][0][0], both[AT_ONE][0][0])
    assert torch.equal(both["logps"][1][0], both[AT_ONE][1][0])
