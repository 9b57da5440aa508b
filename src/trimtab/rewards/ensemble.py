"""Several rewards as one that trusts what they agree on: mean − k · spread.

Coste et al. 2024, arXiv 2310.02743: conservative optimisation of an ensemble of reward models, against the mistakes
of one alone. Their worst case is combine `min`; their uncertainty-weighted mean subtracts the variance,
spread `variance`. Where we depart: spread is the standard deviation by default, which has the reward's own unit;
and members are made comparable first, since the Bradley-Terry likelihood leaves each a constant, which would be
spread.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from itertools import combinations, groupby
from typing import Literal

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.values import as_score

Combine = Literal["mean", "min"]
Spread = Literal["std", "variance"]


class EnsembleReward(Reward):
    """The mean of the members' scores less k times their spread, or their minimum. A member with several heads
    counts as so many. The breakdown has mean, spread and each member's score.

    standardise: whether `set_scale` puts the members on one scale; without it scores are taken as they come.
    """

    def __init__(
        self,
        members: Sequence[Reward],
        k: float = 1.0,
        *,
        combine: Combine = "mean",
        spread: Spread = "std",
        standardise: bool = True,
        name: str = "ensemble",
    ) -> None:
        self.members, self.k, self.combine, self.spread, self.name = list(members), k, combine, spread, name
        self.standardise = standardise
        if sum(member.heads for member in self.members) < 2:
            raise TrimtabError(
                f"reward {name}: an ensemble needs two members, or one reward model of several heads."
            )
        self.scale: list[tuple[float, float]] | None = None
        """Of each member the mean and the standard deviation of its scores, where they are put on one scale."""
        signatures = "|".join(member.signature for member in self.members)
        self.signature = f"ensemble|{k!r}|{combine}|{spread}|{standardise}|{signatures}"
        self._otherwise: dict[str, list[float]] = {}

    @property
    def asks_server(self) -> bool:  # type: ignore[override]
        """Whether any member does."""
        return any(member.asks_server for member in self.members)

    def again(self) -> EnsembleReward:
        """See Reward.again; its scale stays."""
        other = copy.copy(self)
        other.members = [member.again() for member in self.members]
        return other

    @property
    def wants_scale(self) -> bool:
        """Whether it has to see scores of some samples first."""
        return self.standardise and self.scale is None

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order; none for one that a member has no score for."""
        by_member = self._members_scores(prompts, completions, completion_ids, columns)
        names = list(by_member)
        out = [self._combined(names, row) for row in zip(*by_member.values(), strict=True)]
        self._count_otherwise(prompts, names, out)
        return out

    def _members_scores(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None,
        columns: Columns | None,
    ) -> dict[str, list[Scored]]:
        """The scores of each member by its name, heads apart."""
        found: dict[str, list[Scored]] = {}
        for place, member in enumerate(self.members):
            scores = member.scored(prompts, completions, completion_ids=completion_ids, columns=columns)
            name = (
                member.name if [m.name for m in self.members].count(member.name) == 1 else f"{member.name}-{place}"
            )
            if member.heads == 1:
                found[name] = scores
                continue
            for head in range(member.heads):
                found[f"{name}/{head}"] = [_of_head(score, head) for score in scores]
        return found

    def _combined(self, names: Sequence[str], row: Sequence[Scored]) -> Scored:
        values = [scored.score for scored in row if scored.score is not None]
        parts: JsonObject = {name: scored.score for name, scored in zip(names, row, strict=True)}
        if len(values) < len(row):
            lacking = [f"{n}: {s.reason or 'no score'}" for n, s in zip(names, row, strict=True) if s.score is None]
            return Scored(None, "; ".join(lacking), parts)
        if self.scale is not None:
            values = self._on_one_scale(values)
        mean, apart = statistics.fmean(values), statistics.pstdev(values)
        total = (
            min(values) if self.combine == "min" else mean - self.k * (apart if self.spread == "std" else apart**2)
        )
        return as_score(self.name, total, {"mean": mean, "spread": apart, **parts})

    def set_scale(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Puts the members on one scale: each by the mean and standard deviation of its scores of these samples.

        The scale is that of the average member, so that a KL coefficient means what it does beside one of them.
        TrimtabError where a member gives all of them one score, or none.
        """
        scale = []
        for name, scores in self._members_scores(prompts, completions, completion_ids, columns).items():
            known = [scored.score for scored in scores if scored.score is not None]
            if len(known) < 2 or min(known) == max(known):
                raise TrimtabError(
                    f"reward {self.name}: member {name} tells none of {len(completions)} samples from the others, "
                    "and has no scale. Leave it out, or set standardise=false."
                )
            scale.append((statistics.fmean(known), statistics.pstdev(known)))
        self.scale = scale
        self.take_metrics()

    def _on_one_scale(self, values: Sequence[float]) -> list[float]:
        assert self.scale is not None
        centre = statistics.fmean(mean for mean, _ in self.scale)
        width = statistics.fmean(deviation for _, deviation in self.scale)
        pairs = zip(values, self.scale, strict=True)
        return [centre + width * (value - mean) / deviation for value, (mean, deviation) in pairs]

    # ---- what the log is told

    def _count_otherwise(self, prompts: Sequence[Prompt], names: Sequence[str], scored: Sequence[Scored]) -> None:
        """Of the pairs of samples of one prompt, how many each member ranks otherwise than the mean does."""
        for _, places in groupby(range(len(scored)), key=lambda place: prompts[place]):
            known = [scored[place].breakdown for place in places if scored[place].score is not None]
            for one, other in combinations(known, 2):
                for name in names:
                    ahead = _sign(one["mean"], other["mean"]) * _sign(one[name], other[name])
                    self._otherwise.setdefault(name, []).append(float(ahead < 0))

    def take_metrics(self) -> dict[str, float]:
        """Those of the members, and for each the share of pairs that it ranks otherwise, since the last call."""
        metrics = {name: value for member in self.members for name, value in member.take_metrics().items()}
        metrics |= {f"otherwise/{name}": statistics.fmean(each) for name, each in self._otherwise.items()}
        self._otherwise = {}
        return metrics

    def reads(self, column: str) -> bool:
        """Whether the scores of any member may depend on the column."""
        return any(member.reads(column) for member in self.members)


def _sign(one: object, other: object) -> int:
    assert isinstance(one, float | int)
    assert isinstance(other, float | int)
    return (one > other) - (one < other)


def _of_head(scored: Scored, head: int) -> Scored:
    value = scored.breakdown.get(f"head_{head}")
    return Scored(None, scored.reason, {}) if scored.score is None else as_score("head", float(str(value)), {})
