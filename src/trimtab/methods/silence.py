"""Rewards that say nothing: steps in which no completion has a score, or in which all scores are equal.

Such a step trains nothing, or the KL alone, and its loss of 0 looks like any other's. It is warned of when it is
first seen, counted, and a reward that stays silent ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trimtab.errors import TrimtabError
from trimtab.methods.rollouts import Scoring
from trimtab.notices import warn

FIRST, LATER, COMPLETIONS = 3, 20, 32
"""Batches in a row without one score that end a run, before its first score and after it, if they had so many
completions together: data of several tasks may well have a batch without a score."""


class Tally(NamedTuple):
    """What there is to know of one group's scores. reasons: of those that are missing."""

    completions: int
    scores: int
    low: float
    high: float
    reasons: tuple[str, ...]


def tally(scoring: Scoring) -> Tally:
    """What a group's scores say, in few numbers."""
    scores = [s.score for s in scoring.scored if s.score is not None]
    reasons = tuple(s.reason or "no reason given" for s in scoring.scored if s.score is None)
    return Tally(len(scoring.scored), len(scores), min(scores, default=0.0), max(scores, default=0.0), reasons)


def missing_reasons(tallies: Sequence[Tally]) -> str:
    """The most frequent reasons of missing scores."""
    counts = Counter(reason for group in tallies for reason in group.reasons)
    shown = [f"{count} × {reason}" for reason, count in counts.most_common(2)]
    return "; ".join(shown) + ("; …" if len(counts) > 2 else "")


class ScoreWatch:
    """Counts the batches whose rewards say nothing, warns of them, and ends a run whose reward stays silent.

    title: of the run. by_group: whether completions are compared within their group only (GRPO), or all (PPO).

    seen: batches, those without a score (silent) and with equal scores only; whether any had a score (heard); the
    silent ones in a row, and how many completions these had (asked).
    """

    def __init__(self, title: str, by_group: bool) -> None:
        self.title, self.by_group = title, by_group
        self.seen: dict[str, int] = {"batches": 0, "heard": 0, "silent": 0, "equal": 0, "row": 0, "asked": 0}

    def see(self, tallies: Sequence[Tally], last: bool = False) -> None:
        """A batch's scores. last: no more will come. TrimtabError where the reward stays silent."""
        seen, scored = self.seen, [group for group in tallies if group.scores]
        seen["batches"] += 1
        if scored:
            seen |= {"heard": 1, "row": 0, "asked": 0}
            seen["equal"] += self._all_equal(scored)
        else:
            seen["silent"] += 1
            seen["row"] += 1
            seen["asked"] += sum(group.completions for group in tallies)
            self._end_if_silent(tallies, last)
        self._tell_silent(missing_reasons(tallies) if not scored else "", now=not scored)
        self._tell_equal(scored)

    def _all_equal(self, tallies: Sequence[Tally]) -> bool:
        if not self.by_group:
            scores = sum(group.scores for group in tallies)
            low, high = min(group.low for group in tallies), max(group.high for group in tallies)
            tallies = [Tally(0, scores, low, high, ())]
        comparable = [group for group in tallies if group.scores > 1]
        return bool(comparable) and all(group.low == group.high for group in comparable)

    def _end_if_silent(self, tallies: Sequence[Tally], last: bool) -> None:
        seen = self.seen
        enough = seen["row"] >= (LATER if seen["heard"] else FIRST) and seen["asked"] >= COMPLETIONS
        if enough or (last and not seen["heard"]):
            count = f"{seen['row']} batches in a row" if seen["row"] > 1 else "the batch"
            reasons = missing_reasons(tallies)
            raise TrimtabError(
                f"{self.title}: none of the {seen['asked']} completions of {count} has a score ({reasons}). "
                "Nothing is learnt so: mend the reward. A run that has begun goes on with --accept-changed-reward."
            )

    def _tell_silent(self, reasons: str, now: bool) -> None:
        seen = self.seen
        if not seen["silent"]:
            return
        share = f"{seen['silent']} of {seen['batches']} batches had no score at all"
        about = "batches without a score"
        if now:
            warn(f"{share} (the last: {reasons}); nothing was learnt from them.", about, aloud=seen["silent"] == 1)
        else:
            warn(f"{share}; nothing was learnt from them.", about, aloud=False)

    def _tell_equal(self, scored: Sequence[Tally]) -> None:
        seen = self.seen
        if not seen["equal"]:
            return
        whose = "of each prompt" if self.by_group else "of the batch"
        warn(
            f"in {seen['equal']} of {seen['batches']} batches all completions {whose} had the same reward: it does "
            "not say which is better, and at most the KL was trained.",
            "batches of equal rewards",
            aloud=seen["equal"] == 1 and bool(scored),
        )

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps of the counts."""
        return dict(self.seen)

    def load_state(self, state: Mapping[str, int]) -> None:
        """Takes back what a checkpoint kept."""
        self.seen |= {name: int(value) for name, value in state.items()}
