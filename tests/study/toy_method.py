"""A method as docs/extending.md says to add one: this file, and a row in each of two tables. Run as a command:

python toy_method.py study recipe.yaml --out OUT
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from trimtab.catalogue import CATALOGUE, SFT, MethodEntry
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.settings import LEARNING_RATE, WEIGHT
from trimtab.methods.table import METHODS, Binding
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import StageMethod
from trimtab.training.step import Forward, Step, Sums


class ToySettings(TrainingSettings):
    learning_rate: float = Field(1e-3, gt=0, le=LEARNING_RATE)
    """The peak of the schedule."""
    push: float = Field(0.5, ge=0, le=WEIGHT)
    """How strongly rejected completions are made less likely."""


class Toy(StageMethod[ToySettings]):
    """Raises chosen completions, and lowers rejected ones by a share of it."""

    best_metric, best_is = "loss", "lowest"
    completions = "pair"
    version = 1

    def prepare(self, groups: Sequence[CompletionGroup], step: int) -> Step:
        return Step(groups, len(groups), self.loss)

    def loss(self, policy: Forward, batch: PackedBatch, total: float) -> tuple[Tensor, Sums]:
        logps = batch.sum_by_completion(policy(batch).logps).view(-1, 2)
        losses = self.settings.push * logps[:, 1] - logps[:, 0]
        return losses.sum() / total, {"toy": (float(losses.sum()), float(len(losses)))}

    def evaluate_pass(self, policy: Forward, batch: PackedBatch) -> Sums:
        loss, metrics = self.loss(policy, batch, 1.0)
        return {"loss": (float(loss), metrics["toy"][1])}


CATALOGUE["toy"] = MethodEntry(
    name="toy", label="Toy push", title="a toy of a method", summary="Pushes.", colour="#111111", marker="X",
    starts_from=SFT, driven_by="data", panels=("loss", "gradient norm"), caption="a toy's curves.",
)  # fmt: skip
METHODS["toy"] = Binding(Toy, ToySettings)

if __name__ == "__main__":
    from trimtab.cli import main

    main()
