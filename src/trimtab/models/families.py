"""Which families of models the tree serves exactly (attention.py). Others run padded rows (padded_rows.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TREE_FAMILIES = {"qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text"}
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}
"""Rotary scalings whose angles depend on the longest position in the batch: rows of a packed batch would change
each other."""


def serves_tree(config: PretrainedConfig) -> bool:
    """Whether a packed batch through a model of this config gives what its rows give one by one."""
    if config.model_type not in TREE_FAMILIES or getattr(config, "use_bidirectional_attention", False):
        return False
    return not has_length_dependent_rope(config)


def has_length_dependent_rope(config: PretrainedConfig) -> bool:
    """Whether any layer's rotary angles depend on the longest position in the batch."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_layer = rope.values() if any(isinstance(value, dict) for value in rope.values()) else [rope]
    kinds = {layer.get("rope_type", layer.get("type")) for layer in by_layer if isinstance(layer, dict)}
    return bool(kinds & LENGTH_DEPENDENT_ROPE)


def without_router_logits(config: PretrainedConfig) -> dict[str, bool]:
    """What a mixture of experts is fed beside tokens whose config asks for its router's logits: not to give them.

    They are for a balancing loss that training does not have, and cannot be joined over a cache.
    """
    return {"output_router_logits": False} if getattr(config, "output_router_logits", False) else {}


def has_experts(config: PretrainedConfig) -> bool:
    """Whether a router picks some of several experts for each token."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return any((getattr(config, name, None) or 0) > 1 for name in names)
