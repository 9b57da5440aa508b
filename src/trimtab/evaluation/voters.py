"""What votes say of the persons who cast them: sides, time, agreement with others and with themselves.

Who clicks at random, or always on one side, is told. Both tests raise an alarm on somebody honest in at most
`FALSE_ALARM` of all files, whatever the number of persons (Bonferroni):

- *Sides.* Which answer stands left is drawn for each person and item, so whoever looks at the answers alone says
  left in half of their votes: an exact binomial test.
- *Random.* Cohen's kappa with the other persons, or with oneself on repeated items, lies below what an honest
  person is taken to reach at least (`WITH_OTHERS`, `WITH_ITSELF`), by a one-sided Wilson bound, and neither is
  clearly above chance. The one who agrees least is told first and left out when the others are looked at again,
  since who clicks at random lowers everybody's agreement.

The second bound is for a person among honest ones; beside one who clicks at random: benchmarks/votes.py.
Who clicks at random half of the time, or has a taste of their own but keeps to it, is not seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats, half a second, where it is first named

from trimtab.data.vote_file import CastVote
from trimtab.evaluation.agreement import categories
from trimtab.evaluation.estimate import INDEPENDENT, Basis, Estimate
from trimtab.evaluation.people_result import Voter, Voting
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.statistics import clusters_of
from trimtab.formats import percent

FALSE_ALARM = 0.01
"""Of all persons of a file together, for either test."""
WITH_OTHERS, WITH_ITSELF = 0.3, 0.5
"""The least kappa of a person who looks: 65 % the same with others, 75 % with oneself, where half is chance."""
ABOVE_CHANCE = 0.05
"""One-sided; whoever is above it with others or with themselves is not told."""
FEWEST = 50
"""Items shared with others below which agreement tells nobody."""

Said = Mapping[str, Mapping[str, int]]
"""By person, then by item: lost (0), tied (1) or won (2), of the first answer."""


def voting_of(votes: Sequence[CastVote]) -> Voting:
    """Everything that the votes of a file that stand say of their persons, who come in alphabetical order."""
    first = [vote for vote in votes if not vote.repeated]
    said = _said(first)
    again = [_Pair(*pair) for pair in _repeats(votes)]
    prompts = {vote.item.id: vote.item.prompt for vote in votes}
    persons = sorted({vote.person for vote in votes})
    told = _told(persons, first, said, again, prompts)
    return Voting(
        votes=len(votes),
        skipped=sum(vote.share is None for vote in votes),
        repeated=sum(vote.repeated for vote in votes),
        left=_left(first),
        itself=_itself(again),
        seconds=_seconds(votes),
        persons=[
            Voter(
                person=person,
                votes=len(own),
                skipped=sum(vote.share is None for vote in own),
                left=_left([vote for vote in own if not vote.repeated]),
                others=_estimate(*_with_others(person, said, persons, prompts)),
                itself=_itself([pair for pair in again if pair.person == person]),
                seconds=_seconds(own),
                told=told[person],
            )
            for person in persons
            for own in [[vote for vote in votes if vote.person == person]]
        ],
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """What a person said of an item twice, as categories, and the item's prompt."""

    person: str
    prompt: str
    before: int
    after: int


def _category(vote: CastVote) -> int:
    assert vote.share is not None
    return int(categories(np.array([vote.share]))[0])


def _said(votes: Iterable[CastVote]) -> Said:
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for vote in votes:
        if vote.share is not None:
            found[vote.person][vote.item.id] = _category(vote)
    return found


def _repeats(votes: Sequence[CastVote]) -> Iterable[tuple[str, str, int, int]]:
    """Items that a person judged twice, and skipped neither time."""
    before = {(v.person, v.item.id): v for v in votes if not v.repeated and v.share is not None}
    for vote in votes:
        first = before.get((vote.person, vote.item.id))
        if vote.repeated and vote.share is not None and first is not None:
            yield vote.person, vote.item.prompt, _category(first), _category(vote)


def _left(votes: Sequence[CastVote]) -> Estimate | None:
    """Of votes for one of the two; a tie says nothing of sides."""
    decided = [vote for vote in votes if vote.verdict in ("left", "right")]
    return _estimate([float(vote.verdict == "left") for vote in decided], [vote.item.prompt for vote in decided])


def _itself(pairs: Sequence[_Pair]) -> Estimate | None:
    return _estimate([float(pair.before == pair.after) for pair in pairs], [pair.prompt for pair in pairs])


def _seconds(votes: Sequence[CastVote]) -> float | None:
    """The median: who goes for a coffee has the page open for long."""
    times = [vote.milliseconds for vote in votes if vote.milliseconds is not None]
    return float(np.median(times)) / 1000 if times else None


def _with_others(
    person: str, said: Said, others: Collection[str], prompts: Mapping[str, str]
) -> tuple[list[float], list[str]]:
    """Of each item that others judged too, the share of these who say the same; and its prompt."""
    shares, asked = [], []
    for item, category in said.get(person, {}).items():
        theirs = [said[other][item] for other in others if other != person and item in said.get(other, {})]
        if theirs:
            shares.append(sum(one == category for one in theirs) / len(theirs))
            asked.append(prompts[item])
    return shares, asked


def _estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    """A share with its interval over prompts; None of nothing."""
    if not values:
        return None
    numbers = clusters_of([str(cluster) for cluster in clusters])
    units = int(numbers.max()) + 1
    basis = Basis(
        method="wilson_effective_n",
        unit="prompts",
        units=units,
        assumptions=[INDEPENDENT.format("Prompts"), PERSONS],
    )
    ends = rate_interval(values, clusters=numbers).pair()
    return Estimate(value=float(np.mean(values)), ci95=ends, n=len(values), basis=basis)


PERSONS = "It holds for these persons."


# ---- who is told


@dataclass(frozen=True, slots=True)
class _Kappa:
    """Agreement beyond chance. high: its one-sided bound. above: whether it is clearly above chance. same: the
    share. n: of how many."""

    value: float
    high: float
    above: bool
    same: float
    n: int


def _kappa(same: Sequence[float], chance: float, clusters: Sequence[str], tail: float) -> _Kappa | None:
    if not same or chance > 1 - 1e-9:
        return None
    share = float(np.mean(same))
    numbers = clusters_of(list(clusters))
    high = rate_interval(same, clusters=numbers, level=1 - 2 * tail).high
    above = rate_interval(same, clusters=numbers, level=1 - 2 * ABOVE_CHANCE).low > chance
    value, bound = ((end - chance) / (1 - chance) for end in (share, high))
    return _Kappa(value, bound, above, share, len(same))


def _chance(ours: Counter[int], theirs: Counter[int]) -> float:
    """How often two who don't look at the answers say the same, each as often what they say."""
    return sum(ours[category] * theirs[category] for category in ours) / max(1, ours.total() * theirs.total())


def _told(
    persons: Sequence[str],
    first: Sequence[CastVote],
    said: Said,
    again: Sequence[_Pair],
    prompts: Mapping[str, str],
) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {person: [] for person in persons}
    for person in persons:
        verdicts: Counter[str] = Counter(vote.verdict for vote in first if vote.person == person)
        decided = verdicts["left"] + verdicts["right"]
        if decided and _is_lopsided(verdicts["left"], decided, len(persons)):
            side = "left" if verdicts["left"] * 2 > decided else "right"
            told[person].append(f"prefers the {side} side: {percent(verdicts[side] / decided)} of {decided} votes")
    tail = FALSE_ALARM / (2 * max(1, len(persons)))  # two looks at each
    own = {person: _own_kappa(person, said, again, tail) for person in persons}
    looking = list(persons)
    while True:
        found = []
        for person in looking:
            with_others = _others_kappa(person, said, looking, prompts, tail)
            if _is_random(with_others, own[person]):
                found.append((_order(with_others), _order(own[person]), person, with_others))
        if not found:
            return told
        _, _, person, with_others = min(found, key=lambda one: one[:3])
        told[person].append(_random_words(with_others, own[person]))
        looking.remove(person)


def _is_lopsided(left: int, decided: int, persons: int) -> bool:
    return float(scipy.stats.binomtest(left, decided).pvalue) < FALSE_ALARM / persons


def _order(kappa: _Kappa | None) -> float:
    return kappa.value if kappa is not None else 0.0


def _is_random(others: _Kappa | None, own: _Kappa | None) -> bool:
    unlike = others is not None and others.n >= FEWEST and others.high < WITH_OTHERS
    unsteady = own is not None and own.high < WITH_ITSELF
    return (unlike or unsteady) and not any(one is not None and one.above for one in (others, own))


def _own_kappa(person: str, said: Said, again: Sequence[_Pair], tail: float) -> _Kappa | None:
    pairs = [pair for pair in again if pair.person == person]
    counts = Counter(said.get(person, {}).values())
    same = [float(pair.before == pair.after) for pair in pairs]
    return _kappa(same, _chance(counts, counts), [pair.prompt for pair in pairs], tail)


def _others_kappa(
    person: str, said: Said, others: Collection[str], prompts: Mapping[str, str], tail: float
) -> _Kappa | None:
    same, asked = _with_others(person, said, others, prompts)
    ours, theirs = Counter[int](), Counter[int]()
    for item, category in said.get(person, {}).items():
        beside = [said[other][item] for other in others if other != person and item in said.get(other, {})]
        if beside:
            ours[category] += 1
            theirs.update(beside)
    return _kappa(same, _chance(ours, theirs), asked, tail)


def _random_words(others: _Kappa | None, own: _Kappa | None) -> str:
    parts = []
    if others is not None:
        parts.append(f"says what others say of {percent(others.same)} of {others.n} answers")
    if own is not None:
        parts.append(f"what they said before of {percent(own.same)} of {own.n}")
    return f"votes as if at random: {', '.join(parts)}"
