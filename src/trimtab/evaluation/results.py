"""The schema of results.json: everything that the report shows, and nothing that it must work out.

Rates are shares from 0 to 1, BLEU runs from 0 to 100, lengths are tokens, memory is bytes, time is
seconds; difference = a - b. A number that does not exist is null: NaN and infinity are refused, except in
training curves, where they happen and become null.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, field_validator

from trimtab.audit.preferences import AuditReport
from trimtab.evaluation import frames
from trimtab.evaluation.difference import Difference
from trimtab.evaluation.estimate import STORED, Estimate
from trimtab.evaluation.judge_card import JudgeCard
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.people_result import People
from trimtab.evaluation.task_scores import TaskResult
from trimtab.files import write_text

if TYPE_CHECKING:
    from pandas import DataFrame


def _finite_or_none(row: object) -> object:
    if not isinstance(row, dict):
        return row
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


CurveRow = Annotated[dict[str, float | int | str | None], BeforeValidator(_finite_or_none)]


class _Model(BaseModel):
    model_config = STORED


class Comparison(Difference):
    """Of one of the metrics of metrics.py."""

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, name: str) -> str:
        if name not in METRICS:
            raise ValueError(f"no metric is called {name!r}; there are {', '.join(METRICS)}")
        return name


class Rating(_Model):
    """A method's place among all: bradley_terry.py. strength: log-odds against an average one of them."""

    name: str
    strength: Estimate
    elo: float


class SecondJudge(_Model):
    """What another judge says of the same completions. judge: in words. optimised: whether a method was trained on
    its scores. estimates: of each method, by the metrics win_rate and judge_score; comparisons: by the same two.
    accuracy: the share of held-out preferences that it agrees with, where it is a reward model of this study.
    missing: completions of all methods that it has no score for; asked: all of them."""

    name: str
    judge: str
    optimised: bool = False
    accuracy: float | None = None
    missing: int = 0
    asked: int = 0
    estimates: dict[str, dict[str, Estimate]] = {}
    comparisons: list[Comparison] = []


class StageCurves(_Model):
    """Rows of metrics.jsonl under TRL's names; validation rows carry the prefix "eval_"."""

    train: list[CurveRow] = []
    validation: list[CurveRow] = []


class Sample(_Model):
    """One prompt with every method's completion and score; chosen: the data's own answer."""

    prompt: str
    chosen: str | None = None
    completions: dict[str, str] = {}
    scores: dict[str, float | None] = {}


class Setting(_Model):
    """One that is not at its default, dotted: dpo.beta. default: null where there is none."""

    name: str
    value: str
    default: str | None = None


class Source(_Model):
    """A model or data, as it was named, and what it held. A hub name is its own hash."""

    role: str
    name: str
    hash: str | None = None


class Provenance(_Model):
    """command: as one would type it, without keys. settings: those that are not at their defaults; defaults: all
    others. hashes: of the models that were evaluated."""

    command: str | None = None
    date: str | None = None
    models: list[Source] = []
    data: list[Source] = []
    settings: list[Setting] = []
    defaults: dict[str, str] = {}
    versions: dict[str, str] = {}
    device: str | None = None
    seeds: list[int] = []
    hashes: dict[str, str] = {}
    wall_seconds: dict[str, float | None] = {}
    peak_memory_bytes: dict[str, int | None] = {}
    decoding: str | None = None


class SplitCounts(_Model):
    """Rows of a split: read, kept, and why others were dropped or shortened."""

    read: int
    kept: int
    dropped: dict[str, int] = {}
    truncated: dict[str, int] = {}


class Results(_Model):
    """curves, samples: of the first seed. other_curves: of the other seeds, where there are several. start: the
    method that a comparison's sentences set the others beside; None for a study's base and SFT. began_at: where a
    recipe has a method start from another one's model than it usually does: that one. opponent_method:
    the method that is the opponent itself, as a base may be, and so has no win rate."""

    schema_version: Literal[1] = 1
    name: str
    summary: str = ""
    warnings: list[str] = []
    verdict: list[str] = []
    opponent: str | None = None
    opponent_method: str | None = None
    start: str | None = None
    began_at: dict[str, str] = {}
    judge: str | None = None
    judge_card: JudgeCard | None = None
    training_reward: str | None = None
    methods: dict[str, MethodResult] = {}
    opponent_result: MethodResult | None = None
    comparisons: list[Comparison] = []
    ranking: list[Rating] = []
    tasks: list[TaskResult] = []
    second_judges: list[SecondJudge] = []
    lengths: dict[str, list[int]] = {}
    curves: dict[str, StageCurves] = {}
    other_curves: dict[int, dict[str, StageCurves]] = {}
    samples: list[Sample] = []
    data: dict[str, SplitCounts] = {}
    audit: AuditReport | None = None
    people: People | None = None
    provenance: Provenance = Provenance()

    def curves_of(self, stage: str) -> dict[int, StageCurves]:
        """By seed, the first seed first."""
        first = self.provenance.seeds[0] if self.provenance.seeds else 0
        by_seed = {first: self.curves[stage]} if stage in self.curves else {}
        return by_seed | {seed: by[stage] for seed, by in self.other_curves.items() if stage in by}

    def frame(self) -> DataFrame:
        """A pandas row for each method, and one for the opponent: see frames.py."""
        return frames.methods_frame(self)

    def comparison_frame(self) -> DataFrame:
        """A pandas row for each pair of methods and metric."""
        return frames.comparisons_frame(self)

    def curve_frame(self) -> DataFrame:
        """A pandas row for each logged step of each stage and seed."""
        return frames.curves_frame(self)

    def to_json(self) -> str:
        """The text of results.json."""
        return self.model_dump_json(indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Write aside, then rename: a reader never sees half a file."""
        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Results:
        """Results from a file. ValueError where it holds something else, or another version's."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
