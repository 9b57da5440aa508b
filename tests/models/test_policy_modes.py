"""Training and evaluation give the same numbers: a reference computed in one must fit a policy in the other."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.families import FAMILIES, OTHERS
from trimtab.data.groups import CompletionGroup, pack
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.settings import LoraSettings, ModelSettings

GROUPS = [CompletionGroup((3, 4, 5, 6), ((7, 8, 9), (10, 11))), CompletionGroup((12, 13), ((14, 15, 16, 17),))]
DROPOUTS = {"attention_dropout": 0.5, "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}


def both_modes(policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return policy.train()(pack(GROUPS)).logps, policy.eval()(pack(GROUPS)).logps


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2", "mamba"])
def test_training_mode_gives_what_evaluation_gives(family: str, tmp_path: Path) -> None:
    """Of a config that asks for dropout wherever its family has any; with a new adapter too."""
    torch.manual_seed(0)
    config = copy.deepcopy((FAMILIES | OTHERS)[family])
    for name in DROPOUTS.keys() & vars(config).keys():
        setattr(config, name, DROPOUTS[name])
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = Policy(model)
        targets = ("in_proj",) if family == "mamba" else "all-linear"
        adapted = load_policy(str(tmp_path), ModelSettings(lora=LoraSettings(rank=2, targets=targets)))
    for policy in (plain, adapted):
        training, evaluation = both_modes(policy)
        assert torch.equal(training, evaluation)
