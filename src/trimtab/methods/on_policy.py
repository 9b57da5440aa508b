"""What methods that train on samples of their own share: their settings, and what they are made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeVar

from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.methods.collector import Collector
from trimtab.methods.held_out import HeldOut, has_pairs
from trimtab.methods.on_policy_settings import OnPolicySettings
from trimtab.methods.rollouts import Rollouts, group_from_state, group_state
from trimtab.methods.starting_rewards import set_scale, starting_rewards
from trimtab.models.loading import load_policy
from trimtab.models.lora import frozen_copy
from trimtab.models.policy import Policy
from trimtab.training.schedule import TrainingSettings, total_steps
from trimtab.training.stage_method import PolicyContext, StageMethod
from trimtab.training.step import Forward, Sums

OnPolicySettingsT = TypeVar("OnPolicySettingsT", bound=OnPolicySettings)


class OnPolicyMethod(StageMethod[OnPolicySettingsT]):
    """A method that trains on scored samples of its own. It holds a collector, which draws and scores them, the
    reference, and what it is validated with; `prepare` is its own."""

    best_metric = "rewards/accuracies"
    best_is: Literal["highest", "lowest"] = "highest"
    completions = "none"
    validation_completions = "pair"
    name: ClassVar[str]
    models_read: ClassVar[int] = 1
    """How many models read each batch of samples before it is trained on; the reference always does."""
    runs_policy = True
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
        if context.reward.wants_scale:
            set_scale(self.collector, self.train)

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Policy:
        """Loads the policy; one with a length encoding counts down from its own target."""
        policy = load_policy(source, settings, settings.seed)
        policy.inputs.hold_target()
        return policy

    @classmethod
    def running_metric(cls, settings: OnPolicySettingsT) -> str | None:
        """The mean reward of a step's samples: an accuracy, where a reward is 1 or 0."""
        return "reward"

    def starting_rewards(self, groups: Sequence[CompletionGroup], samples: int) -> Sequence[float | None]:
        """The mean reward of so many samples of the starting model for each prompt, cached on disk."""
        return starting_rewards(self.collector, groups, samples)

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
