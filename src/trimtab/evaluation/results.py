"""The schema of results.json: everything that the report shows, and nothing that it must work out.

Rates are shares from 0 to 1, BLEU runs from 0 to 100, lengths are tokens, memory is bytes, time is
seconds; difference = a - b. A number that does not exist is null: NaN and infinity are refused, except in
training curves, where they happen and become null.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trimtab.data.audit import AuditReport
from trimtab.files import write_text

SCHEMA_VERSION = 1
Metric = Literal["win_rate", "judge_score", "length", "excess_length", "correctness"]
METRICS: tuple[Metric, ...] = get_args(Metric)

Share = Annotated[float, Field(ge=0, le=1)]
Interval95 = tuple[float, float]


def _finite_or_none(row: object) -> object:
    if not isinstance(row, dict):
        return row
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


CurveRow = Annotated[dict[str, float | int | str | None], BeforeValidator(_finite_or_none)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SeedSpread(_Model):
    """One number over training seeds; evaluation/seeds.py says what the intervals are good for.

    values: by seed. between_ci95: Student's t of their mean, with one degree of freedom less than there are
    seeds. within_ci95: of other prompts, these seeds; null for what is no mean over prompts.
    """

    values: dict[int, float]
    between_ci95: Interval95 | None = None
    within_ci95: Interval95 | None = None


class WinRate(_Model):
    """Against the opponent. `missing_bounds`: every missing prompt lost, every missing prompt won.

    Over several seeds: n, ties and missing are counted in all of them.
    """

    ties_half: Share | None
    strict: Share | None
    ties_as_wins: Share | None
    ci95: Interval95 | None
    n: int
    ties: int
    missing: int
    missing_bounds: Interval95 | None = None
    p_value: float | None = None
    """Of "method and opponent are exchangeable", by the test that compares methods; p_holm: corrected, for as many
    claims as there are pairs of methods, or methods if they are more."""
    p_holm: float | None = None


class MeanScore(_Model):
    """A mean over prompts; n counts them."""

    mean: float
    ci95: Interval95 | None = None
    n: int | None = None


class LengthControlled(_Model):
    """`length_effect` is φ of the GLM: positive when the judge's preference rises with length."""

    value: Share
    ci95: Interval95 | None = None
    n: int | None = None
    length_effect: float | None = None
    warnings: list[str] = []


class Bleu(_Model):
    """Corpus BLEU by its order, 0 to 100."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)
    bleu_1: float = Field(alias="1")
    bleu_2: float = Field(alias="2")
    bleu_4: float = Field(alias="4")
    signature: str


class Length(_Model):
    """Completion lengths in tokens."""

    mean: float
    median: float
    chosen_mean: float | None = None


class MethodResult(_Model):
    """excess_length: max(0, tokens − tokens of the chosen completion). correctness: the judge's own, where
    its breakdown has one (the sandbox's: −1 wrong … 1 right).

    seeds: by metric, for methods that were trained with several seeds; the numbers are then means over them.
    """

    win_rate: WinRate | None = None
    judge_score: MeanScore | None = None
    length_controlled_win_rate: LengthControlled | None = None
    bleu: Bleu | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    length: Length | None = None
    excess_length: MeanScore | None = None
    correctness: MeanScore | None = None
    terminated: Share | None = None
    behaviours: dict[str, float | None] = {}
    seeds: dict[str, SeedSpread] = {}


class Comparison(_Model):
    """Paired over the prompts that both answered; `p_holm` is corrected over all pairs of the metric."""

    a: str
    b: str
    metric: Metric
    difference: float
    ci95: Interval95
    p_value: Annotated[float, Field(gt=0, le=1)]
    p_holm: float | None = None
    n: int | None = None
    seeds: SeedSpread | None = None


class StageCurves(_Model):
    """Rows of metrics.jsonl under TRL's names; validation rows carry the prefix "eval_"."""

    train: list[CurveRow] = []
    validation: list[CurveRow] = []


class Sample(_Model):
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
    """curves, samples: of the first seed. other_curves: of the other seeds, where there are several."""

    schema_version: Literal[1] = 1
    name: str
    summary: str = ""
    warnings: list[str] = []
    verdict: list[str] = []
    opponent: str | None = None
    judge: str | None = None
    training_reward: str | None = None
    methods: dict[str, MethodResult] = {}
    opponent_result: MethodResult | None = None
    comparisons: list[Comparison] = []
    lengths: dict[str, list[int]] = {}
    curves: dict[str, StageCurves] = {}
    other_curves: dict[int, dict[str, StageCurves]] = {}
    samples: list[Sample] = []
    data: dict[str, SplitCounts] = {}
    audit: AuditReport | None = None
    provenance: Provenance = Provenance()

    def curves_of(self, stage: str) -> dict[int, StageCurves]:
        """By seed, the first seed first."""
        first = self.provenance.seeds[0] if self.provenance.seeds else 0
        found = {first: self.curves[stage]} if stage in self.curves else {}
        return found | {seed: by[stage] for seed, by in self.other_curves.items() if stage in by}

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def write(self, path: Path) -> None:
        """Write aside, then rename: a reader never sees half a file."""
        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Results:
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Results:
        return cls.model_validate(value)
