"""The reference's log-probabilities: computed once, kept under everything they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.families import make
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.stored_groups import JoinedGroups
from trimtab.models import reference
from trimtab.models.policy import Policy
from trimtab.models.reference import MappedLogps, hash_groups, reference_key, reference_logps

GROUPS = [CompletionGroup((3, 4 + i), ((5, 6, 7 + i), (8 + i,)), index=i) for i in range(7)]


def run(
    policy: Policy, folder: Path, groups: Sequence[CompletionGroup] = GROUPS
) -> tuple[Sequence[torch.Tensor], int]:
    calls = []

    def forward(batch: Any) -> Any:
        calls.append(1)
        return policy(batch)

    key = reference_key(policy.model.state_dict(), "float32")
    return reference_logps(forward, groups, folder, key, token_budget=12), len(calls)


def test_equal_to_a_forward_pass_and_computed_once(tmp_path: Path) -> None:
    policy = Policy(make("qwen2"))
    found, calls = run(policy, tmp_path)
    assert calls > 1
    with torch.no_grad():
        for group, logps in zip(GROUPS, found, strict=True):
            assert torch.allclose(logps, policy(pack([group])).logps, atol=1e-5)
    again, calls = run(policy, tmp_path)
    assert calls == 0
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_groups_on_the_disk_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from files of three groups, when asked for; also where a file is removed in the meantime."""
    monkeypatch.setattr(reference, "CHUNK", 3)
    policy = Policy(make("qwen2"))
    expected, _ = run(policy, tmp_path)
    found, calls = run(policy, tmp_path, JoinedGroups([GROUPS[:2], GROUPS[2:]]))
    assert isinstance(found, MappedLogps)
    assert calls == 0
    for file in tmp_path.iterdir():
        file.unlink()
    for order in ([6, 0, 4, 4, 1, 2, 3, 5], range(-7, 0)):
        assert all(torch.equal(found[i], expected[i]) for i in order)
    assert all(torch.equal(a, b) for a, b in zip(found[2:], expected[2:], strict=True))
    assert len(found) == 7
    with pytest.raises(IndexError):
        found[7]


def test_other_weights_or_tokens_are_computed_anew(tmp_path: Path) -> None:
    policy = Policy(make("qwen2"))
    run(policy, tmp_path)
    with torch.no_grad():
        next(policy.model.parameters())[5, 0] += 1e-4
    _, calls = run(policy, tmp_path)
    assert calls > 0
    _, calls = run(policy, tmp_path, [*GROUPS[:-1], CompletionGroup((3, 4), ((5, 6),))])
    assert calls > 0


def test_a_key_tells_where_prompts_end() -> None:
    """The same tokens cut otherwise are other data."""
    a = CompletionGroup((3, 4), ((5, 6),))
    b = CompletionGroup((3,), ((4, 5, 6),))
    assert hash_groups([a]) != hash_groups([b])
    c = CompletionGroup((3,), ((5, 6),), prompt_suffixes=((4,),))
    apart = [a, b, c, replace(c, prompt_suffixes=((7,),)), replace(c, prompt_suffixes=())]
    assert len({hash_groups([one]) for one in apart}) == 5
    assert reference_key(make("qwen2").state_dict(), "float32") != reference_key(make("qwen2").state_dict(), "bf16")


def test_a_kill_loses_at_most_a_chunk(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(reference, "CHUNK", 3)
    policy = Policy(make("qwen2"))
    seen = 0

    def dies(batch: Any) -> Any:
        nonlocal seen
        seen += len(batch.groups)
        if seen > 5:
            raise KeyboardInterrupt
        return policy(batch)

    key = reference_key(policy.model.state_dict(), "float32")
    with pytest.raises(KeyboardInterrupt):
        reference_logps(dies, GROUPS, tmp_path, key, token_budget=12)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert not list(tmp_path.glob("*.tmp"))
    found, _ = run(policy, tmp_path)
    assert len(found) == len(GROUPS)
