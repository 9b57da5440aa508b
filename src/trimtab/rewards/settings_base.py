"""What every kind of reward has in common: its settings, and what the rest of trimtab may ask of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from trimtab.data.records import Record
from trimtab.data.settings import WEIGHT, Settings
from trimtab.errors import TrimtabError
from trimtab.models.settings import Precision, Role
from trimtab.rewards.base import Reward


@dataclass(frozen=True)
class RewardContext:
    """What a reward may need that its settings do not say.

    ready: rewards that are made elsewhere, by kind ("gold", "trained"). cache: the file of remote scores, where a
    reward names none of its own; None: none are kept. policy: the model that is trained, for a reward that asks it.
    """

    ready: Mapping[str, Reward]
    cache: Path | None = None
    policy: str | None = None


class RewardSettings(Settings):
    """One reward. With several, the reward is their weighted sum. Each kind is a subclass."""

    kind: str
    """Which kind of reward it is."""
    weight: float = Field(1.0, ge=-WEIGHT, le=WEIGHT)
    """What its scores are multiplied by in the sum of several rewards; not 0."""

    needed: ClassVar[tuple[str, ...]] = ()
    """Settings that it cannot do without."""
    scores_ignore: ClassVar[frozenset[str]] = frozenset()
    """Settings that no score depends on: a run may go on with other values."""
    is_remote: ClassVar[bool] = False
    """Whether a server scores."""
    needs_sandbox: ClassVar[bool] = False
    """Whether it knows the sandbox's prompts only."""
    needs_training: ClassVar[bool] = False
    """Whether the study trains it first."""
    reads_every_row: ClassVar[bool] = False
    """Whether all rows are looked at before anything is trained on them, also by a stage run by itself."""
    compares: ClassVar[bool] = False
    """Whether it sees two answers, and so is a judge only."""
    only_within_prompts: ClassVar[bool] = False
    """Whether scores of different prompts have no common scale, as Nemotron's cards say."""
    role: ClassVar[Role | None] = None
    """What its model must be, for one that runs a model here."""

    @field_validator("weight")
    @classmethod
    def _check_weight(cls, value: float) -> float:
        if not value:
            raise ValueError("a reward of weight 0 has no say: leave it out")
        return value

    @model_validator(mode="after")
    def _check_needed(self) -> RewardSettings:
        if lacking := [name for name in self.needed if not getattr(self, name)]:
            raise ValueError(f"a reward of kind {self.kind} needs {' and '.join(lacking)}")
        return self

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """The settings, besides kind, that a name on the command line stands for: the kind alone, or what follows
        it with a colon (":FOLDER"). None where such a name is none of this kind's."""
        return None

    @abstractmethod
    def make(self, context: RewardContext) -> Reward:
        """The reward. TrimtabError where a function, model, key or address is not there."""

    def check(self) -> None:
        """TrimtabError where a function, model, key or address is not there: told before hours of training, not
        after. Nothing is loaded that takes long."""
        return

    def check_rows(self, records: Sequence[Record], given: Collection[str] = ()) -> None:
        """TrimtabError where rows lack what it reads of them, or hold what it can't read. given: what else it gets
        by name."""
        return

    @property
    def given_name(self) -> str | None:
        """What the user calls it."""
        return None

    @property
    def what(self) -> str:
        """For reports: what scores."""
        return self.kind

    def describe(self) -> str:
        """For reports: what scores, and what it is called where that says something else."""
        return self.what if self.given_name in (None, self.what) else f"{self.given_name} ({self.what})"

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What scores, whatever it is called or weighs and wherever it runs."""
        return (self.kind, None)

    @property
    def place(self) -> tuple[str, ...]:
        """The folders above a local reward: two of one name are told apart by them."""
        return ()

    @property
    def asks_policy(self) -> bool:
        """Whether it is the policy itself that scores."""
        return False

    @property
    def calls(self) -> int:
        """How often a model is asked for one completion's score."""
        return 1

    @property
    def local_model(self) -> str | None:
        """The folder or hub name of the model that is run here."""
        return None

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models that score, as they are called where they run."""
        return (self.local_model,) if self.local_model else ()

    @property
    def weights_precision(self) -> Precision:
        """What the weights of that model are held in, whatever its products are."""
        return "float32"


class NamedRewardSettings(RewardSettings):
    """Of a kind whose rewards may be given a name."""

    name: str | None = None
    """In logs and breakdowns, instead of the function's, folder's or model's."""

    @property
    def given_name(self) -> str | None:
        """What the user calls it; None where nothing was said."""
        return self.name


def ready_made(settings: RewardSettings, context: RewardContext, needs: str) -> Reward:
    """A reward that is made elsewhere. TrimtabError where it was not. needs: what would have made it."""
    if settings.kind not in context.ready:
        raise TrimtabError(f"reward of kind {settings.kind}: there is none here; it needs {needs}.")
    return context.ready[settings.kind]
