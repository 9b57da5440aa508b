"""Scores of standard tasks: one metric of a task as a model got it, and of all models as results.json holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from trimtab.evaluation.difference import Difference
from trimtab.evaluation.estimate import STORED, Estimate

if TYPE_CHECKING:
    from trimtab.evaluation.statistics import Clusters, Floats


@dataclass(frozen=True)
class TaskScores:
    """One model's scores of one metric.

    task: as lm-eval calls it. metric: with its filter where it has one, as in "exact_match, strict-match".
    headline: whether the task is judged by it. number: lm-eval's own. documents: what names each one, the same for
    every model; those of equal text have the same part before "#". values: of each document, so that their mean is
    `number`; None where the number is no mean over documents. share: whether documents are scored from 0 to 1.
    version, shots: of the task, as lm-eval reports it, and examples before each question.
    """

    task: str
    metric: str
    headline: bool
    number: float
    documents: tuple[str, ...] = ()
    values: Floats | None = None
    share: bool = False
    higher_is_better: bool = True
    version: str | None = None
    shots: int | None = None

    @property
    def clusters(self) -> Clusters:
        """Of each document, the number of its cluster: documents of equal text are one."""
        from trimtab.evaluation.statistics import clusters_of  # loads scipy, which settings do without

        return clusters_of([name.partition("#")[0] for name in self.documents])


class TaskResult(BaseModel):
    """One metric of one task, of all models that were asked.

    documents: how many. by_document: whether the number is a mean over documents, without which it has neither
    interval nor differences. methods: the opponent by its own name among them. comparisons: paired by document;
    `p_holm` corrects for all pairs of this metric.
    """

    model_config = STORED
    task: str
    metric: str
    headline: bool
    higher_is_better: bool
    share: bool
    by_document: bool
    documents: int
    version: str | None = None
    shots: int | None = None
    methods: dict[str, Estimate] = {}
    comparisons: list[Difference] = []

    @property
    def scale(self) -> float:
        """Shares are shown in per cent."""
        return 100.0 if self.share else 1.0

    @property
    def digits(self) -> int:
        """Behind the point, where it is shown."""
        return 1 if self.share else 3

    @property
    def name(self) -> str:
        """As in "gsm8k (exact_match)"."""
        return f"{self.task} ({self.metric})"

    def difference(self, a: str, b: str) -> Difference | None:
        """a − b, turned round where it is stored the other way."""
        for found in self.comparisons:
            if {found.a, found.b} == {a, b}:
                return found if found.a == a else found.turned_round()
        return None
