"""Which code a method of the catalogue is: its class, and the class of its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trimtab.methods.distillation_settings import DistillationSettings
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.ppo_settings import PPOSettings
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.methods.sft_settings import SFTSettings, with_length_penalty
from trimtab.training.schedule import TrainingSettings

if TYPE_CHECKING:
    from trimtab.training.stage_method import ModelMethod

SettingsT = TypeVar("SettingsT", bound=TrainingSettings)


@dataclass(frozen=True)
class Binding(Generic[SettingsT]):
    """A method as code.

    code: what trains: its class, or the file and class in this folder, loaded when it is asked for, with PyTorch.
    settings: what a recipe may set of it. inherits: the method whose settings it has where a recipe gives it none
    of its own. complete: fills in what makes it this method.
    """

    code: type[ModelMethod[SettingsT, Any, Any]] | str
    settings: type[SettingsT]
    inherits: str | None = None
    complete: Callable[[SettingsT], SettingsT] = lambda settings: settings

    @property
    def method(self) -> type[ModelMethod[SettingsT, Any, Any]]:
        """The class that trains."""
        if not isinstance(self.code, str):
            return self.code
        file, name = self.code.split(".")
        method: type[ModelMethod[SettingsT, Any, Any]] = getattr(import_module(f"trimtab.methods.{file}"), name)
        return method


METHODS: dict[str, Binding[Any]] = {
    "sft": Binding("sft.SFT", SFTSettings),
    "sft_length": Binding("sft.SFT", SFTSettings, inherits="sft", complete=with_length_penalty),
    "dpo": Binding("dpo.DPO", DPOSettings),
    "reward": Binding("reward.RewardModelTraining", RewardModelSettings),
    "online_dpo": Binding("online_dpo.OnlineDPO", OnlineDPOSettings),
    "distillation": Binding("distillation.Distillation", DistillationSettings),
    "grpo": Binding("grpo.GRPO", GRPOSettings),
    "ppo": Binding("ppo.PPO", PPOSettings),
}
"""By their names in the catalogue."""
