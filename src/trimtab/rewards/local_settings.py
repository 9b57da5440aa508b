"""The settings of rewards that run a model here. What they make is loaded when it is made, with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self, TypedDict

from pydantic import Field, model_validator

from trimtab.data.settings import BUDGET
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.models.kinds import check_model_source
from trimtab.models.settings import Precision, Role
from trimtab.rewards.base import Reward
from trimtab.rewards.settings_base import NamedRewardSettings, RewardContext


class LocalRewardArguments(TypedDict):
    """What the constructor of every local reward takes by name."""

    tokenizer: str | None
    token_budget: int
    precision: Precision
    trust: TrustSettings


class LocalRewardSettings(NamedRewardSettings, TrustSettings):
    """The settings that rewards which run a model here share."""

    model: str | None = None
    """The model: a Hugging Face folder or hub name."""
    tokenizer: str | None = None
    """Where the tokenizer is, if it is not the model's own."""
    token_budget: int = Field(8192, gt=0, le=BUDGET)
    """Tokens of a pass: memory and speed."""
    precision: Precision = "float32"
    """What products are computed in."""
    needed: ClassVar[tuple[str, ...]] = ("model",)

    @property
    def local_model(self) -> str | None:
        """The folder or hub name of the model that is run here."""
        return self.model

    @property
    def place(self) -> tuple[str, ...]:
        """The folders above the model's own."""
        return Path(self.model or "").parts[:-1]

    @property
    def what(self) -> str:
        """The model, as the user wrote it."""
        return self.model or self.kind

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The model: two settings with the same one are the same reward."""
        return ("model", self.model, None)

    @property
    def arguments(self) -> LocalRewardArguments:
        """These settings as the reward's constructor takes them."""
        return {
            "tokenizer": self.tokenizer, "token_budget": self.token_budget, "precision": self.precision,
            "trust": self,
        }  # fmt: skip

    def check(self) -> None:
        """TrimtabError where there is no such model, or one that this kind of reward does not read."""
        if self.model:
            check_model_source(self.model, self, self.role)


def folder_named(name: str, kind: str) -> str:
    """What stands behind the colon of a name, ":FOLDER". TrimtabError where nothing does."""
    folder = name.removeprefix(":")
    if not folder:
        raise TrimtabError(f"reward {kind}{name}: name the model behind the colon, as in {kind}:FOLDER.")
    return folder


class ClassifierSettings(LocalRewardSettings):
    """A sequence classifier with one label, run here."""

    kind: Literal["classifier"]
    """A sequence classifier with one label, run here."""
    role: ClassVar[Role | None] = "reward model"

    def make(self, context: RewardContext) -> Reward:
        """The loaded classifier; TrimtabError where it cannot be loaded."""
        from trimtab.rewards.classifier import ClassifierReward

        return ClassifierReward(self.model or "", self.name, **self.arguments)


class NemotronLocalSettings(LocalRewardSettings):
    """A Nemotron-HF language model, run here."""

    kind: Literal["nemotron_local"]
    """A Nemotron-HF language model, run here."""
    precision: Precision = "float32"
    """What products are computed in, and weights held in too."""
    only_within_prompts: ClassVar[bool] = True

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: ":FOLDER"."""
        return {"model": folder_named(name, "nemotron_local")}

    @property
    def weights_precision(self) -> Precision:
        """The products' own, as the model cards load the weights."""
        return self.precision

    def make(self, context: RewardContext) -> Reward:
        """The loaded model; TrimtabError where it is none of this kind."""
        from trimtab.rewards.nemotron_local import NemotronLocalReward

        return NemotronLocalReward(self.model or "", self.name, **self.arguments)


def check_question(question: str) -> None:
    """ValueError unless a completion has a place in it."""
    if "{completion}" not in question:
        raise ValueError("question: say where the completion goes with {completion} (and the prompt with {prompt})")


class YesNoSettings(LocalRewardSettings):
    """A language model, run here, that is asked whether the completion is good."""

    kind: Literal["yes_no"]
    """A language model, run here, that is asked whether the completion is good."""
    model: str | None = None
    """The model: a Hugging Face folder or hub name; None: the policy itself, which only online_dpo can ask."""
    question: str | None = None
    """What is asked, with {prompt} and {completion} where they go; None: rewards/yes_no.py's."""
    needed: ClassVar[tuple[str, ...]] = ()
    role: ClassVar[Role | None] = "policy"

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if self.question is not None:
            check_question(self.question)
        return self

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: the kind alone, which asks the policy, or ":FOLDER"."""
        return {"model": folder_named(name, "yes_no")} if name else {}

    @property
    def asks_policy(self) -> bool:
        """Whether no model is named, so that the policy judges itself."""
        return self.model is None

    @property
    def what(self) -> str:
        """For reports: what scores."""
        return f"yes or no by {self.model or 'the policy itself'}"

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The kind, the model and the question: two settings with the same are the same reward."""
        return (self.kind, self.model, self.question)  # the same model as a classifier is another judge

    def make(self, context: RewardContext) -> Reward:
        """The reward, whose model is not loaded yet; TrimtabError where there is no model to ask."""
        from trimtab.rewards.yes_no import YesNoReward

        model = self.model or context.policy
        if model is None:
            raise TrimtabError(
                "reward of kind yes_no: name the model that is asked (model); only online_dpo asks the policy "
                "itself."
            )
        name = self.name or (None if self.model else "yes_no")
        return YesNoReward(model, name, question=self.question, **self.arguments)
