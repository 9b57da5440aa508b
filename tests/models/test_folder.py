"""config.json says the same in the words of transformers 4 as in those of transformers 5."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from models.families import FAMILIES, make
from trimtab.models.folder import older_names, readable_by_all, save_folder

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, {"rope_theta": 1e6}),
        (
            {"rope_parameters": LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 64}},
            {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}},
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
                },
            },
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 2e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        (
            {
                "model_type": "modernbert",
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 3e5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
                },
            },
            {"global_rope_theta": 3e5, "local_rope_theta": 2e4},
        ),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 5e4, "partial_rotary_factor": 0.25}},
            {"rotary_emb_base": 5e4, "rotary_pct": 0.25},
        ),
        ({"model_type": "gpt2"}, {}),
    ],
)
def test_older_names(said: dict[str, Any], names: dict[str, Any]) -> None:
    """As transformers 4.57.6 writes them; it reads what is saved with them in tests/training."""
    assert older_names(said) == names


def test_the_sources_names_are_kept_unless_they_are_no_longer_true() -> None:
    came = {"rope_scaling": None, "theirs": 1, "auto_map": {}, "torch_dtype": "bfloat16", "vocab_size": 5}
    said = {"dtype": "float32", "vocab_size": 7, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}
    assert readable_by_all(said, came) == said | {
        "rope_scaling": None, "theirs": 1, "rope_theta": 3.0, "torch_dtype": "float32",
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_5_reads_the_same_config(family: str, tmp_path: Path) -> None:
    """With both names in the file, and again after a second save."""
    model = make(family)
    before = copy.deepcopy(model.config.to_dict())
    for i in range(2):
        save_folder(model, tmp_path / str(i), str(tmp_path / str(i - 1)))
        after = AutoConfig.from_pretrained(tmp_path / str(i)).to_dict()
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        assert changed <= {"_name_or_path", "architectures", "dtype", "transformers_version"}


def test_a_generation_config_that_transformers_does_not_save_is_kept(tmp_path: Path) -> None:
    """Only the tokens that begin, end and pad are ours; the model's own is as it was afterwards."""
    model = make("qwen2")
    source = tmp_path / "source"
    model.save_pretrained(source)
    came = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 2, "their_own": "x"}
    (source / "generation_config.json").write_text(json.dumps(came))
    model = AutoModelForCausalLM.from_pretrained(source)
    model.generation_config.eos_token_id = [5, 2]
    save_folder(model, tmp_path / "saved", str(source))
    said = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert said == came | {"eos_token_id": [5, 2]}
    assert model.generation_config.temperature == 0.9
