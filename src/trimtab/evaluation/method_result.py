"""One method's numbers, and the shape that they have in results.json.

In memory a method is its estimates, by metric. In the file they stand in groups: `win_rate` holds `ties_half`,
`strict` and `ties_as_wins` with the interval and the counts of the first, and so on. `Metric.stored` says where.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, model_serializer, model_validator

from trimtab.evaluation.estimate import STORED, Estimate
from trimtab.evaluation.instruction_accuracy import KindAccuracy
from trimtab.evaluation.length_control import Difficulty
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.win_rate import WinCounts
from trimtab.json_types import JsonObject, JsonValue


class _Model(BaseModel):
    model_config = STORED


class LengthEffect(_Model):
    """Of the win rate at equal length. length_effect: φ of its model, positive when the judge's preference rises
    with length. difficulty: of prompts, from where; "none" in results of an earlier version. overlap: the smaller
    share of prompts with an answer at least as long, or at most as long, as the opponent's. extrapolated: whether
    that is below 20 %. warnings: why the rate may mean little, or is withheld."""

    length_effect: float | None = None
    difficulty: Difficulty = "none"
    overlap: float | None = None
    extrapolated: bool = False
    warnings: list[str] = []


class BleuSignature(_Model):
    """How sacrebleu counted."""

    signature: str


class MethodResult(_Model):
    """estimates: by metric, in the table's order; only what is known. The other fields are what results.json keeps
    beside the numbers of a group. behaviours: shares, by the names of behaviours.py. instructions: by kind,
    where the test prompts have some.
    """

    estimates: dict[str, Estimate] = {}
    win_counts: WinCounts | None = None
    length_effect: LengthEffect | None = None
    bleu_signature: BleuSignature | None = None
    behaviours: dict[str, float | None] = {}
    instructions: dict[str, KindAccuracy] = {}

    def value(self, metric: str) -> float | None:
        """The number of that metric; None where it is not known."""
        estimate = self.estimates.get(metric)
        return None if estimate is None else estimate.value

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: object) -> object:
        if not isinstance(value, dict) or cls.model_fields.keys() & value.keys() - set(BESIDE):
            return value
        return _read_groups(value)

    @model_validator(mode="after")
    def _check_ranges(self) -> MethodResult:
        for name, estimate in self.estimates.items():
            limits = METRICS[name].range
            if limits and limits.certain and not limits.low <= estimate.value <= limits.high:
                raise ValueError(f"{METRICS[name].stored}: {estimate.value:g} is no {METRICS[name].title}")
        return self

    @model_serializer
    def _to_file(self) -> JsonObject:
        return _write_groups(self)


BESIDE = ("behaviours", "instructions")
"""Fields of MethodResult that results.json holds as they are."""
DETAILS: dict[str, tuple[str, type[BaseModel]]] = {
    "win_rate": ("win_counts", WinCounts),
    "length_controlled_win_rate": ("length_effect", LengthEffect),
    "bleu": ("bleu_signature", BleuSignature),
}
"""What a group of results.json holds beside metrics: the group → (field of MethodResult, its type)."""


def _write_groups(result: MethodResult) -> JsonObject:
    """As results.json holds it: null where nothing is known."""
    groups: JsonObject = {}
    for metric in METRICS.values():
        group, key = metric.path
        value = result.value(metric.name)
        groups[group] = {**groups.get(group, {}), key: value} if key else value
    for metric in METRICS.values():
        if metric.doubt == "interval":
            estimate = result.estimates.get(metric.name)
            basis = estimate and estimate.basis and estimate.basis.model_dump()
            groups[metric.path[0]] |= {"ci95": estimate and estimate.ci95, "n": estimate and estimate.n}
            groups[metric.path[0]] |= {"basis": basis}
    for group, (field, _) in DETAILS.items():
        details: BaseModel | None = getattr(result, field)
        groups[group] |= details.model_dump() if details else {}
    for group, fields in groups.items():
        if isinstance(fields, dict) and all(value is None for value in fields.values()):
            groups[group] = None
    spreads = {name: e.seeds.model_dump() for name, e in result.estimates.items() if e.seeds is not None}
    kinds = {kind: accuracy.model_dump() for kind, accuracy in result.instructions.items()}
    return groups | {"behaviours": result.behaviours, "instructions": kinds, "seeds": spreads}


def _read_groups(stored: Mapping[str, JsonValue]) -> JsonObject:
    """The fields of MethodResult. What is left over is no part of results, and the model refuses it."""
    groups = {name: dict(group) if isinstance(group, dict) else group for name, group in stored.items()}
    spreads = groups.pop("seeds", {})
    fields: JsonObject = {name: groups.pop(name, {}) for name in BESIDE}
    estimates: JsonObject = {}
    for metric in METRICS.values():
        group, key = metric.path
        place = groups.get(group) if key else groups
        value = place.pop(key or group, None) if isinstance(place, dict) else None
        if value is not None:
            estimates[metric.name] = {"value": value, "seeds": spreads.pop(metric.name, None)}
    for metric in METRICS.values():
        place = groups.get(metric.path[0])
        if metric.doubt == "interval" and isinstance(place, dict):
            interval = {key: place.pop(key, None) for key in ("ci95", "basis")} | {"n": place.get("n")}
            if "n" not in DETAILS.get(metric.path[0], ("", BaseModel))[1].model_fields:
                place.pop("n", None)
            if metric.name in estimates:
                estimates[metric.name] |= interval
    for group, (field, _) in DETAILS.items():
        fields[field] = groups.pop(group, None) or None
    if spreads:
        raise ValueError(f"seeds: {', '.join(spreads)} without a number of its own")
    return fields | {"estimates": estimates} | {name: group for name, group in groups.items() if group}
