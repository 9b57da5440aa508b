"""Small random models of every family, and random groups to run them on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from trimtab.data.groups import CompletionGroup

VOCABULARY = 61
WINDOW = 6
"""Shorter than most test sequences: a window measured in packed distance would show."""
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Any] = {
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=WINDOW),
    "gemma": GemmaConfig(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=WINDOW, attn_logit_softcapping=2.0, final_logit_softcapping=1.5),
    "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
}

TREE = [family for family in FAMILIES if family != "gpt2"]
OTHERS: dict[str, Any] = {
    "qwen2_windows": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "mamba": MambaConfig(
        vocab_size=VOCABULARY, hidden_size=24, state_size=4, num_hidden_layers=2, pad_token_id=0, eos_token_id=2
    ),
}
"""Not in every test: windows in the upper layers only, and a model with a state in place of attention."""


def make(family: str, seed: int = 0, **settings: Any) -> Any:
    """A model with weights large enough that soft caps and windows matter. settings: of its config."""
    torch.manual_seed(seed)
    config = copy.deepcopy((FAMILIES | OTHERS)[family])
    for name, value in settings.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


tokens = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=14).map(tuple)
# Two tokens that differ: where all that a token sees is equal, the attention's true gradient is 0 and
# both sides are rounding noise.
prompts = st.lists(st.integers(3, VOCABULARY - 1), min_size=2, max_size=14, unique=True).map(tuple)
rests = st.lists(st.integers(3, VOCABULARY - 1), max_size=5).map(tuple)
"""Of prompts that a group's completions don't share; some are none."""
groups = st.builds(
    lambda prompt, branches, differ: CompletionGroup(
        prompt, tuple(c for c, _ in branches), prompt_suffixes=tuple(rest for _, rest in branches) if differ else ()
    ),
    prompts,
    st.lists(st.tuples(tokens, rests), min_size=1, max_size=4),
    st.booleans(),
)
batches = st.lists(groups, min_size=1, max_size=4)


def single_logps(model: Any, members: list[CompletionGroup]) -> torch.Tensor:
    """The same log-probabilities, one unpadded sequence at a time, through transformers alone."""
    out = []
    for group in members:
        for prompt, completion in zip(group.prompts, group.completions, strict=True):
            ids = torch.tensor([prompt + completion])
            logps = model(input_ids=ids).logits[0].float().log_softmax(-1)
            out.append(logps[len(prompt) - 1 : -1].gather(-1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(out)
