"""What a reward's settings are in the keys of folders: as it was when all kinds had one class."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from rewards.toy import reward_settings
from trimtab.rewards.settings import without_asking


def key(**settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = without_asking(reward_settings(**settings).model_dump())
    return found


def test_a_key_has_what_it_had() -> None:
    usual = {
        "allow_pickle": False, "trust_remote_code": False, "path": None, "model": None, "tokenizer": None,
        "token_budget": 8192, "precision": "float32", "question": None, "attribute": None, "base_url": None,
        "weight": 1.0, "name": None,
    }  # fmt: skip
    assert key(kind="gold") == usual | {"kind": "gold"}
    assert key(kind="trained", weight=2) == usual | {"kind": "trained", "weight": 2.0}
    assert key(kind="function", path="a.py:f", name="n") == usual | {
        "kind": "function", "path": "a.py:f", "name": "n",
    }  # fmt: skip
    asking: dict[str, Any] = {"concurrency": 3, "timeout": 5, "cache": "c", "api_key_variable": "K", "retries": 1}
    assert key(kind="nemotron", attribute="a", **asking) == usual | {"kind": "nemotron", "attribute": "a"}
    assert key(kind="vllm", model="m", base_url="http://h:1", **asking) == usual | {
        "kind": "vllm", "model": "m", "base_url": "http://h:1",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["gold", "nemotron", "yes_no"])
def test_what_was_written_down_is_read(kind: str) -> None:
    """Every setting of every kind, at its default; a value that means something is refused as ever."""
    written = key(kind=kind) | {"concurrency": 16, "timeout": 120.0, "retries": 6, "cache": None}
    assert reward_settings(**written) == reward_settings(kind=kind)
    assert hashlib.blake2b(json.dumps(key(**written), sort_keys=True).encode()).digest() == (
        hashlib.blake2b(json.dumps(key(kind=kind), sort_keys=True).encode()).digest()
    )
    with pytest.raises(ValueError, match=f"a reward of kind {kind} takes no path"):
        reward_settings(**written | {"path": "a.py:f"})
