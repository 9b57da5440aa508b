"""How far a judge can be trusted, by its own judgements: what stands in every report that has one.

Over all judged pairs of a method's answer and its opponent's:

    position    share of verdicts for the answer that was shown first, over both orders: a half for a judge that
                looks at no place, (1 + b) / 2 where it decides a share b of its verdicts by the first place
    flips       share of pairs on which the two orders name different winners
    longer      share of pairs that the longer answer wins: a half where length and judgement have nothing in
                common. More may be merit
    padded      share that an answer wins of itself with harmless padding behind it: merit can't be its reason, and
                a half or less is sound
    repeated    share of pairs with the same winner when the judge is asked once more

Ties count as a half where a share is of wins. Intervals are rates.py's, by prompts. tests/evaluation/
test_judge_card.py plants biases of known size and finds them; benchmarks/judge_card.py prints how often.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from trimtab.evaluation.estimate import INDEPENDENT, STORED, Basis, Estimate
from trimtab.evaluation.judge_probes import Probe
from trimtab.evaluation.power import Spread, smallest_gain
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import Clusters, Floats, renumbered

if TYPE_CHECKING:
    from trimtab.evaluation.answers import Answers

MEMBERS = "members"
"""In a judgement's breakdown: each member's preference, of a jury."""


class NullRates(BaseModel):
    """A method's win rate by the judge, and by judges that see nothing but a length or a place. first: always takes
    the answer that is shown first, in both orders."""

    model_config = STORED
    judge: float
    longest: float | None = None
    shortest: float | None = None
    first: float = 0.5


class Agreement(BaseModel):
    """Of two members of a jury. same: share of pairs with the same winner, or a tie by both."""

    model_config = STORED
    a: str
    b: str
    same: Estimate


class SelfPreference(BaseModel):
    """What the judge gives answers of its own family, beside what somebody else gives them. own: whose answers; by:
    a second judge, or people. judge, other: their win rates by both on the same prompts. excess: the difference."""

    model_config = STORED
    own: str
    by: str
    judge: float
    other: float
    excess: Estimate


class JudgeCard(BaseModel):
    """See the top of the file. pairs: judged ones; missing: without a judgement. nulls: by method. members: of a
    jury. relatives: what has a name of the judge's family; self_preference: of those that somebody else judged, too
    (self_preference.py). smallest_gain: of a win rate, that so many prompts show
    four times in five. Agreement with labels that people gave is not measured here: it takes the labels."""

    model_config = STORED
    pairs: int
    missing: int = 0
    position: Estimate | None = None
    flips: Estimate | None = None
    longer: Estimate | None = None
    padded: Estimate | None = None
    repeated: Estimate | None = None
    nulls: dict[str, NullRates] = {}
    members: list[Agreement] = []
    relatives: list[str] = []
    self_preference: list[SelfPreference] = []
    smallest_gain: float | None = None


@dataclass(frozen=True)
class _Judged:
    """Judged pairs, of every method and seed: the outcome of each, 0 to 1, and how much longer the method's answer
    is than the opponent's. prompts: numbers of clusters."""

    outcome: Floats
    longer_by: Floats
    prompts: Clusters


def card_of(
    runs: Mapping[str, Sequence[Answers]],
    probes: Sequence[Probe] = (),
    relatives: Sequence[str] = (),
) -> JudgeCard | None:
    """The card; None where no pair was judged. runs: of each method, the answers of its seeds."""
    judged = [run for of_method in runs.values() for run in of_method if run.is_judged and run.outcomes is not None]
    if not judged:
        return None
    every = _joined(judged)
    known = ~np.isnan(every.outcome)
    if not known.any():
        return None
    apart = known & (every.longer_by != 0) & ~np.isnan(every.longer_by)
    for_longer = np.where(every.longer_by > 0, every.outcome, 1 - every.outcome)
    first, flipped, asked = _orders(judged)
    return JudgeCard(
        pairs=int(known.sum()),
        missing=int((~known).sum()),
        position=_rate(first[asked], every.prompts[asked]),
        flips=_rate(flipped[asked], every.prompts[asked]),
        longer=_rate(for_longer[apart], every.prompts[apart]),
        padded=_rate(np.array([p.padded for p in probes if p.padded is not None], dtype=np.float64)),
        repeated=_rate(np.array([_same(p.before, p.again) for p in probes if p.again is not None])),
        nulls={name: _nulls(of_method) for name, of_method in runs.items() if _is_judged(of_method)},
        members=_agreements(judged),
        relatives=list(relatives),
        smallest_gain=_smallest_gain(runs),
    )


def _joined(judged: Sequence[Answers]) -> _Judged:
    return _Judged(
        np.concatenate([_outcomes(run) for run in judged]),
        np.concatenate([_longer_by(run) for run in judged]),
        np.concatenate([run.cluster_numbers for run in judged]),
    )


def _outcomes(run: Answers) -> Floats:
    assert run.outcomes is not None
    return run.outcomes


def _longer_by(run: Answers) -> Floats:
    """In characters; NaN where a length is not known."""
    if run.opponent is None:
        return np.full(len(run.outputs.generations), np.nan)
    sides = zip(run.outputs.generations, run.opponent.generations, strict=True)
    lengths = [(ours.characters, theirs.characters) for ours, theirs in sides]
    both = [(np.nan if one is None else one) - (np.nan if other is None else other) for one, other in lengths]
    return np.array(both, dtype=np.float64)


def _orders(judged: Sequence[Answers]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of each pair the share of the answer shown first, whether it was a flip, and whether both are known."""
    rows = [one for run in judged for one in _shares(run)]
    first = np.array([(f + 1 - s) / 2 for f, s, _ in rows], dtype=np.float64)
    flipped = np.array([flip for _, _, flip in rows], dtype=np.float64)
    return first, flipped, ~np.isnan(first + flipped)


def _shares(run: Answers) -> Iterator[tuple[float, float, float]]:
    """(share when shown first, when shown second, flipped) of each prompt; NaN where they are not known."""
    if not run.outputs.judgements:
        yield from [(np.nan, np.nan, np.nan)] * len(run.outputs.generations)
        return
    for judgement in run.outputs.judgements:
        shares = [judgement.breakdown.get(name) for name in ("first", "second", "flipped")]
        first, second, flipped = (np.nan if share is None else float(share) for share in shares)
        yield first, second, flipped


def _rate(values: Floats, prompts: Clusters | None = None) -> Estimate | None:
    """A mean of values from 0 to 1 with its interval; None of none."""
    if not values.size:
        return None
    clusters = renumbered(prompts) if prompts is not None else None
    units = values.size if clusters is None else int(clusters.max()) + 1
    assumptions = [INDEPENDENT.format("Prompts")]
    basis = Basis(method="wilson_effective_n", unit="prompts", units=units, assumptions=assumptions)
    interval = rate_interval(values, clusters=clusters).pair()
    return Estimate(value=float(values.mean()), ci95=interval, n=int(values.size), basis=basis)


def _same(one: float, other: float) -> float:
    return float(np.sign(one - 0.5) == np.sign(other - 0.5))


def _is_judged(of_method: Sequence[Answers]) -> bool:
    return any(run.is_judged and run.outcomes is not None and not np.isnan(run.outcomes).all() for run in of_method)


def _nulls(of_method: Sequence[Answers]) -> NullRates:
    """Over the prompts that the judge judged, all seeds together."""
    outcome = np.concatenate([_outcomes(run) for run in of_method if run.is_judged])
    longer_by = np.concatenate([_longer_by(run) for run in of_method if run.is_judged])
    known = ~np.isnan(outcome)
    lengths = longer_by[known]
    judge = float(outcome[known].mean())
    if np.isnan(lengths).any():
        return NullRates(judge=judge)
    longest = float((np.sign(lengths) / 2 + 0.5).mean())
    return NullRates(judge=judge, longest=longest, shortest=1 - longest)


def _agreements(judged: Sequence[Answers]) -> list[Agreement]:
    """Of each two members of a jury, over the pairs that both judged."""
    said: dict[str, list[float]] = {}
    places: list[int] = []
    for run in judged:
        for judgement, place in zip(run.outputs.judgements, run.cluster_numbers, strict=False):
            shares = judgement.breakdown.get(MEMBERS)
            if not isinstance(shares, dict):
                continue
            places.append(int(place))
            for name, share in shares.items():
                said.setdefault(name, []).append(np.nan if share is None else float(share))
    agreements = []
    for a, b in combinations(said, 2):
        one, other = np.array(said[a]), np.array(said[b])
        both = ~np.isnan(one) & ~np.isnan(other)
        same = (np.sign(one - 0.5) == np.sign(other - 0.5))[both].astype(np.float64)
        if (estimate := _rate(same, np.array(places)[both])) is not None:
            agreements.append(Agreement(a=a, b=b, same=estimate))
    return agreements


def _smallest_gain(runs: Mapping[str, Sequence[Answers]]) -> float | None:
    """Of the method whose outcomes differ most: of one training run."""
    gains = []
    for of_method in runs.values():
        for run in of_method:
            outcomes = run.outcomes if run.is_judged else None
            known = outcomes[~np.isnan(outcomes)] if outcomes is not None else np.array([])
            if known.size > 1 and (spread := float(known.std(ddof=1))):
                gains.append(smallest_gain(Spread(spread), known.size))
    return max(gains, default=None)


# ---- self-preference

STUDY_MODELS, THE_OPPONENT = "the models of this study", "the opponent"
"""What relatives are called that are all of a study's methods, or the opponent."""
NO_FAMILY = frozenset(
    {"model", "best", "last", "final", "base", "instruct", "chat", "judge", "opponent", "reward", "sandbox", "the"}
)


def family_of(model: str) -> str | None:
    """The first word of a model's own name: qwen of Qwen/Qwen2.5-7B; None where it is no name, as of a folder
    called best."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    words = [word for word in re.findall(r"[a-z]{3,}", name) if word not in NO_FAMILY]
    begins = bool(words) and name.startswith(words[0])
    return words[0] if begins else None


def relatives_of(judges: Sequence[str], models: Mapping[str, str]) -> list[str]:
    """Which of these models, by what each is called in the results, are of a judge's family: it may prefer them for
    their ways (Panickssery et al. 2024, arXiv 2404.13076)."""
    families = {family for judge in judges if (family := family_of(judge)) is not None}
    return [called for called, model in models.items() if family_of(model) in families]
