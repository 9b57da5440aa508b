"""What iterated preference training takes."""

from __future__ import annotations

from pydantic import Field, model_validator

from trimtab.data.settings import (
    IN_MEMORY,
    ROWS,
)
from trimtab.losses.table import needs_length_instructions
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.pairing import Pairing
from trimtab.rewards.settings import Rewards
from trimtab.rollout.sampler import Sampling


class OnlineDPOSettings(DPOSettings):
    """A round's training takes all that DPO takes; learning rate, warmup and schedule start anew in each.

    Where best_metric is None a round keeps its last weights, and not the best by validation pairs. Those are
    completions of other models: a policy that gets better at its own is not seen there, and what the round learnt
    would often be thrown away (step 0).
    """

    rounds: int = Field(3, gt=0, le=10_000)
    """How often the model samples, and is trained on what it sampled."""
    prompts: int | None = Field(None, gt=0, le=ROWS)
    """Prompts of each round: the next so many in the order of the seed. None: the training prompts, shared out
    among the rounds."""
    samples: int = Field(4, ge=2, le=IN_MEMORY)
    """Completions of each prompt, drawn by the model that the round starts from, which is its reference too."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    rewards: Rewards = ()
    """What pairs are made by: the weighted sum of these. Kind yes_no without a model: the round's own policy."""
    pairing: Pairing = "best_worst"
    """best_random: the best sample against one drawn from those that score lower."""

    @model_validator(mode="after")
    def _check_pairs(self) -> OnlineDPOSettings:
        if not any(self.sampling.temperatures):
            raise ValueError("samples at temperature 0 are all the same, and no pair: raise sampling.temperatures")
        if set(self.weights) == {"sft"}:
            raise ValueError("loss 'sft' alone looks at no rejected completion: it needs no pairs")
        if self.condition is not None or any(map(needs_length_instructions, self.weights)):
            raise ValueError("condition and rc_dpo change prompts, which sampled pairs keep: dpo takes both")
        return self

    @property
    def of_a_round(self) -> DPOSettings:
        """What a round's stage depends on beside its rows: no more, so that rounds can be added."""
        of_dpo = self.model_dump(include=set(DPOSettings.model_fields))
        last = {"best_metric": "step", "best_is": "highest"}
        return DPOSettings.model_validate(of_dpo | (last if self.best_metric is None else {}))

    @property
    def reads_win_rates(self) -> bool:
        """Whether its loss reads each completion's win rate."""
        return "chosen_win_rates" in self.inputs
