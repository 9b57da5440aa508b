"""Which code a method of the catalogue is: its class, and the class of its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple

from trimtab.methods.distillation import Distillation, DistillationSettings
from trimtab.methods.dpo import DPO, DPOSettings
from trimtab.methods.grpo import GRPO, GRPOSettings
from trimtab.methods.online_dpo import OnlineDPO, OnlineDPOSettings
from trimtab.methods.ppo import PPO, PPOSettings
from trimtab.methods.reward import RewardModelSettings, RewardModelTraining
from trimtab.methods.sft import SFT, SFTSettings, with_length_penalty
from trimtab.training.stage_method import ModelMethod, SettingsT


class Binding(NamedTuple, Generic[SettingsT]):
    """A method as code.

    method: what trains. settings: what a recipe may set of it. inherits: the method whose settings it has where a
    recipe gives it none of its own. complete: fills in what makes it this method.
    """

    method: type[ModelMethod[SettingsT, Any, Any]]
    settings: type[SettingsT]
    inherits: str | None = None
    complete: Callable[[SettingsT], SettingsT] = lambda settings: settings


METHODS: dict[str, Binding[Any]] = {
    "sft": Binding(SFT, SFTSettings),
    "sft_length": Binding(SFT, SFTSettings, inherits="sft", complete=with_length_penalty),
    "dpo": Binding(DPO, DPOSettings),
    "reward": Binding(RewardModelTraining, RewardModelSettings),
    "online_dpo": Binding(OnlineDPO, OnlineDPOSettings),
    "distillation": Binding(Distillation, DistillationSettings),
    "grpo": Binding(GRPO, GRPOSettings),
    "ppo": Binding(PPO, PPOSettings),
}
"""By their names in the catalogue."""
