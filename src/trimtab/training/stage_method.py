"""What a stage asks of a method beyond the loop, and what it makes ready for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from accelerate import Accelerator
from torch import Tensor

from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.pairs import PairFormat
from trimtab.data.records import Record
from trimtab.data.rows import TruncationSettings
from trimtab.data.special_tokens import agree_on_special_tokens
from trimtab.data.split_groups import CompletionsOf, Expansion
from trimtab.data.stored_groups import changed, joined
from trimtab.data.tokenizer import save_tokenizer
from trimtab.evaluation.generate import stop_tokens
from trimtab.json_types import JsonObject
from trimtab.models.loading import load_policy
from trimtab.models.lora import ADAPTER
from trimtab.models.policy import Policy
from trimtab.models.reference import reference_key, reference_logps
from trimtab.models.reward_model import RewardModel
from trimtab.models.settings import Role
from trimtab.notices import say, warn
from trimtab.rewards.base import Reward
from trimtab.training.held_out import EvaluateGroups, evaluate_groups
from trimtab.training.schedule import TrainingSettings
from trimtab.training.step import Forward, Step, Sums

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainedModel: TypeAlias = Policy | RewardModel
TextFormat: TypeAlias = ChatFormat | PairFormat
"""How records become token ids: of a reward model TurnFormat, which is a ChatFormat, or PairFormat."""
SettingsT = TypeVar("SettingsT", bound=TrainingSettings)
ModelT = TypeVar("ModelT", bound=TrainedModel)
FormatT = TypeVar("FormatT", bound=TextFormat)


@dataclass(frozen=True)
class TrainingContext(Generic[ModelT, FormatT]):
    """What a method may need of its stage, made before the method is.

    text_format: how the records became groups; None where nothing asks for it. train_records, validation_records:
    where the index of a group of the split points. reward: what is optimised. judge: what training is watched with.
    """

    policy: ModelT
    train: Sequence[CompletionGroup]
    validation: Sequence[CompletionGroup]
    settings: TrainingSettings
    accelerator: Accelerator
    cache: Path
    text_format: FormatT | None = None
    train_records: Sequence[Record] = ()
    validation_records: Sequence[Record] = ()
    reward: Reward | None = None
    judge: Reward | None = None

    def __post_init__(self) -> None:
        self.policy.to(self.accelerator.device)

    @property
    def chat(self) -> FormatT:
        """How the records became groups. ValueError where the context was made without it."""
        if self.text_format is None:
            raise ValueError("this training context was made without a text format")
        return self.text_format

    @property
    def stops(self: PolicyContext) -> list[int]:
        """Every token that ends a completion."""
        return stop_tokens(self.policy.model, self.chat)

    def evaluate(
        self, one_pass: EvaluateGroups, policy: Forward, groups: Sequence[CompletionGroup]
    ) -> dict[str, float]:
        """Means of a pass's metrics over all groups."""
        return evaluate_groups(one_pass, policy, groups, self.settings.pass_tokens, self.accelerator)

    def with_reference(self: PolicyContext, *splits: Sequence[CompletionGroup]) -> list[Sequence[CompletionGroup]]:
        """The splits' groups with a column ref_logps [M]: the starting model's log-probabilities, cached on
        disk."""
        ref_logps = self.starting_logps(joined(splits))

        def with_column(first: int, place: int, group: CompletionGroup) -> CompletionGroup:
            return group.with_columns(ref_logps=ref_logps[first + place])

        firsts = accumulate(map(len, splits), initial=0)
        return [changed(split, partial(with_column, first)) for first, split in zip(firsts, splits, strict=False)]

    @property
    def starting_key(self: PolicyContext) -> str:
        """A hash of the starting model, and of what else its numbers depend on here."""
        condition = f"{self.settings.precision}|{self.accelerator.device.type}"
        return reference_key(self.policy.starting_state(), condition + self.policy.inputs.key)

    def starting_logps(self: PolicyContext, groups: Sequence[CompletionGroup]) -> Sequence[Tensor]:
        """The starting model's log-probabilities of each group's completion tokens, [M], cached on disk."""
        key = self.starting_key
        if self.accelerator.is_main_process:
            say(f"reference: log-probabilities of {len(groups)} groups")
        self.policy.eval()
        # The main process computes and stores; the others read.
        with self.accelerator.autocast(), self.accelerator.main_process_first():
            return reference_logps(
                self.policy, groups, self.cache, key, self.settings.pass_tokens, self.accelerator.device,
                report=warn,
            )  # fmt: skip


PolicyContext: TypeAlias = TrainingContext[Policy, ChatFormat]
AnyContext: TypeAlias = TrainingContext[Any, Any]


class ModelMethod(ABC, Generic[SettingsT, ModelT, FormatT]):
    """A method (see step.Method) with what a stage must know of it before it is made.

    The type parameters are its settings, the model that it trains and the format of its rows.
    """

    steps_per_batch: int = 1
    rates: Mapping[str, float] = MappingProxyType({})
    runs_policy: bool = False

    completions: ClassVar[CompletionsOf]
    """Which of a record's completions it trains on."""
    validation_completions: ClassVar[CompletionsOf | None] = None
    """Which it is validated on, where the data has them; None: the same."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Columns that it reads itself."""
    role: ClassVar[Role] = "policy"
    """What its model must be to begin with."""
    version: ClassVar[int]
    """Raised when a change of code changes results: stages done by the old one are done again."""
    best_metric: str
    best_is: Literal["highest", "lowest"]

    def __init__(self, settings: SettingsT, context: TrainingContext[ModelT, FormatT]) -> None:
        self.settings, self.context = settings, context
        self.train, self.validation = context.train, context.validation

    @classmethod
    def completions_of(cls, settings: SettingsT) -> CompletionsOf:
        """Which of a record's completions these settings train on."""
        return cls.completions

    @classmethod
    def caveat(cls, settings: SettingsT) -> str | None:
        """What to know of the results of a model that was trained with these settings."""
        return None

    @classmethod
    def running_metric(cls, settings: SettingsT) -> str | None:
        """The training metric, high is good, that may set the pace of a curriculum; None: it has none."""
        return None

    @classmethod
    def other_inputs(cls, settings: SettingsT) -> dict[str, str]:
        """What the result depends on beside model, data and settings, such as the hash of a teacher."""
        return {}

    @classmethod
    def check_needs(cls, settings: SettingsT, chat: TextFormat) -> None:
        """Raises TrimtabError before training where something that the settings name is missing or does not fit."""
        return

    @classmethod
    @abstractmethod
    def load(cls, source: str, settings: TrainingSettings) -> ModelT:
        """Loads the model to train, with new weights drawn from the seed of the settings."""

    @classmethod
    @abstractmethod
    def save(cls, policy: ModelT, chat: FormatT, folder: Path) -> None:
        """Writes the model with its tokenizer as a plain Hugging Face folder."""

    @classmethod
    @abstractmethod
    def text_format(
        cls, tokenizer: PreTrainedTokenizerBase, data: TruncationSettings, settings: SettingsT
    ) -> FormatT:
        """How its records become token ids; its tokenizer is saved with the model."""

    @classmethod
    def expansion(cls, settings: SettingsT) -> Expansion | None:
        """What these settings make of a record before it is encoded; None: it stays as it is."""
        return None

    def training_groups(self) -> Sequence[CompletionGroup]:
        """The groups that an epoch goes over."""
        return self.train

    @abstractmethod
    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        """The step, counted from 0, given the data's groups for it."""

    @abstractmethod
    def evaluate_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        """The metrics of one pass over validation groups."""

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Means over the validation groups; nothing where there are none."""
        return self.context.evaluate(self.evaluate_pass, policy, self.validation)

    def starting_rewards(self, groups: Sequence[CompletionGroup], samples: int) -> Sequence[float | None]:
        """The mean reward of so many samples of the starting model for each group's prompt; None without a score.

        ValueError for a method without a reward.
        """
        raise ValueError("this method has no reward to ask")

    def state(self) -> JsonObject:
        """What a checkpoint must keep, as JSON; a method that trains on data has nothing."""
        return {}

    def load_state(self, state: JsonObject) -> None:
        """Takes back what a checkpoint kept."""
        return


AnyModelMethod: TypeAlias = ModelMethod[Any, Any, Any]
AnyMethod: TypeAlias = type[AnyModelMethod]
"""A method's class, whatever its settings, model and format are."""


class StageMethod(ModelMethod[SettingsT, Policy, ChatFormat]):
    """A method that trains a language model on text as its chat template renders it."""

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Policy:
        """Loads the model to train.

        TrimtabError for one that is fed more than token ids: few methods carry that on.
        """
        policy = load_policy(source, settings, settings.seed)
        policy.inputs.refuse(source)
        return policy

    @classmethod
    def save(cls, policy: Policy, chat: ChatFormat, folder: Path) -> None:
        """Writes a plain Hugging Face folder, with the adapter in a folder of its own where there is one."""
        agree_on_special_tokens(chat, policy.model)
        save_tokenizer(chat.tokenizer, folder)
        policy.save(folder)
        if (folder / ADAPTER).is_dir():
            save_tokenizer(chat.tokenizer, folder / ADAPTER)

    @classmethod
    def text_format(
        cls, tokenizer: PreTrainedTokenizerBase, data: TruncationSettings, settings: SettingsT
    ) -> ChatFormat:
        """Prompts and completions as the tokenizer's chat template renders them."""
        return ChatFormat(tokenizer, data)
