"""What methods that train on samples of their own share: their settings, and what they are made with."""

from __future__ import annotations

from typing import ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from trimtab.data.groups import PackedBatch
from trimtab.data.settings import IN_MEMORY, LEARNING_RATE, ROWS, STEPS, WEIGHT
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.methods.collector import Collector
from trimtab.methods.held_out import HeldOut, has_pairs
from trimtab.methods.rollouts import Rollouts, group_from_state, group_state
from trimtab.models.loading import load_policy
from trimtab.models.lora import frozen_copy
from trimtab.models.policy import Policy
from trimtab.rewards.settings import Rewards
from trimtab.rollout.sampler import Sampling
from trimtab.training.schedule import TrainingSettings, total_steps
from trimtab.training.stage_method import PolicyContext, StageMethod
from trimtab.training.step import Forward, Sums


class OnPolicySettings(TrainingSettings):
    """What a method that trains on samples of its own takes beside all that training takes."""

    learning_rate: float = Field(5e-6, gt=0, le=LEARNING_RATE)
    batch_size: int = Field(8, gt=0, le=IN_MEMORY)
    """Prompts of a batch."""
    samples: int = Field(gt=0, le=IN_MEMORY)
    """Completions of each prompt."""
    rewards: Rewards = ()
    """What is optimised: the weighted sum of these."""
    updates_per_batch: int = Field(1, gt=0, le=STEPS)
    """Optimizer steps taken on the same samples."""
    kl_coefficient: float = Field(ge=0, le=WEIGHT)
    """λ, or β, of the KL to the reference: how dear it is to leave it."""
    correction: Literal["none", "token", "tempered"] = "token"
    """What is corrected of temperatures ≠ 1, and of another engine's arithmetic. none: as the report does;
    token: truncated weights; tempered: π_T is optimised, and an engine's samples are weighed by token too."""
    weight_cap: float = Field(2.0, gt=0)
    """No token weighs more than this, where correction weighs tokens."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    mask_cut: bool = False
    """Whether completions cut at the cap are left out of the loss."""
    validation_prompts: int = Field(64, ge=0, le=ROWS)
    """How many held-out prompts are sampled at each evaluation; 0 for none."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if any(t <= 0 for t in self.sampling.temperatures):
            raise ValueError("training samples need temperatures above 0: greedy ones have no gradient")
        return self

    @property
    def _corrected(self) -> bool:
        """Whether tokens are weighed by π/μ: where the sampler's distribution μ is not the one optimised."""
        if self.sampling.engine != "transformers":
            return self.correction != "none"
        return self.correction == "token" and any(t != 1 for t in self.sampling.temperatures)


OnPolicySettingsT = TypeVar("OnPolicySettingsT", bound=OnPolicySettings)


class OnPolicyMethod(StageMethod[OnPolicySettingsT]):
    """A method that trains on scored samples of its own. It holds a collector, which draws and scores them, the
    reference, and what it is validated with; `prepare` is its own."""

    best_metric = "rewards/accuracies"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "none"
    carries_inputs = True
    validation_completions = "pair"
    name: ClassVar[str]
    models_read: ClassVar[int] = 1
    """How many models read each batch of samples before it is trained on; the reference always does."""
    within_groups: ClassVar[bool] = True
    """Whether a completion is compared with those of its own prompt only."""

    def __init__(self, settings: OnPolicySettingsT, context: PolicyContext) -> None:
        super().__init__(settings, context)
        if context.reward is None:
            raise TrimtabError(
                f"{self.name}: no reward. Name one in 'rewards', such as {{kind: function, path: 'my.py:f'}}."
            )
        if not has_pairs(self.validation):
            self.best_metric = "reward" if settings.validation_prompts and self.validation else "none"
        self.steps_per_batch = settings.updates_per_batch
        self.tempered = settings.correction == "tempered"
        self.collector = Collector(
            self.name, settings.sampling, context, context.reward, self.within_groups, self.tempered
        )
        if has_pairs(self.validation):
            (self.validation,) = context.with_reference(self.validation)
        self.reference = frozen_copy(context.policy)
        by_reward = self.best_metric == "reward"
        self.held_out = HeldOut(
            self.collector, self.reference, self.validation, settings.validation_prompts, by_reward
        )
        self.batch = Rollouts([], {}, [])

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Policy:
        """Loads the policy; one with a length encoding counts down from its own target."""
        policy = load_policy(source, settings, settings.seed)
        policy.inputs.hold_target()
        return policy

    def is_last_batch(self, step: int) -> bool:
        """Whether no batch is drawn after that of this step."""
        settings = self.settings
        per_batch = 1 if settings.max_steps else settings.updates_per_batch
        steps = total_steps(settings, len(self.train)) * per_batch
        return step + settings.updates_per_batch >= steps

    def state(self) -> JsonObject:
        """The batch where several steps train on it; else the next step samples anew."""
        kept: JsonObject = {"watch": self.collector.watch.state()}
        if self.settings.updates_per_batch == 1:
            return kept
        return kept | {"batch": [group_state(group) for group in self.batch.groups]}

    def load_state(self, state: JsonObject) -> None:
        """Takes back what a checkpoint kept."""
        self.collector.watch.load_state(state.get("watch", {}))
        if "batch" in state:
            self.batch = Rollouts([group_from_state(rollout) for rollout in state["batch"]], {}, [])

    def evaluate(self, policy: Forward) -> dict[str, float]:
        """Accuracy on held-out pairs, and what fresh samples of held-out prompts are like."""
        return self.held_out.evaluate(policy)

    def evaluate_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        """Preference accuracy on a pass of held-out pairs; see HeldOut."""
        return self.held_out.pairs_pass(policy, batch)
