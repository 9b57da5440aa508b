"""What people's labels say, as results.json holds it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from trimtab.evaluation.estimate import STORED, Estimate, Interval95


class _Model(BaseModel):
    model_config = STORED


class RaterAgreement(_Model):
    """who: "judge" beside each vote of a person, or "people" beside each other. table: of the judge, how many votes
    lost, tied and won (rows) where it said lost, tied and won (columns). kappa: of two raters only. alpha:
    Krippendorff's, a win beside a tie being a quarter of a disagreement."""

    who: Literal["judge", "people"]
    raw: Estimate
    kappa: Estimate | None = None
    alpha: Estimate | None = None
    table: list[list[int]] = []


class LengthAgreement(_Model):
    """Votes on answers that differ by `low` to `high` characters. agreement: of the judge with them. judge_longer,
    people_longer: how often each preferred the longer answer, a tie being half."""

    low: float
    high: float
    agreement: Estimate
    judge_longer: float
    people_longer: float


class CorrectedNumber(_Model):
    """kind: "rate", how often a wins against b, or "difference", of a's win rate against the opponent less b's.
    corrected: people's, by prediction-powered inference; None for too few labels or without a judge. judge, labels:
    by either alone. labelled, rows: answers with a label, and all that the judge saw. weight: λ, how far the judge
    is relied on. more_to_halve: labels that would halve the interval; None where labels of all rows don't."""

    kind: Literal["rate", "difference"]
    a: str
    b: str
    labels: Estimate
    judge: Estimate | None = None
    corrected: Estimate | None = None
    labelled: int
    rows: int
    weight: float | None = None
    more_to_halve: int | None = None
    more_for_five: int | None = None

    @property
    def contradicted(self) -> bool:
        """Whether the judge's number is outside the corrected interval."""
        if self.corrected is None or self.corrected.ci95 is None or self.judge is None:
            return False
        low, high = self.corrected.ci95
        return not low <= self.judge.value <= high

    @property
    def even(self) -> float:
        """What says that neither is better."""
        return 0.5 if self.kind == "rate" else 0.0

    @property
    def borne_out(self) -> bool:
        """Whether the corrected interval lies where the judge's does: above even or below it, or holds it. True
        without either."""
        if self.corrected is None or self.corrected.ci95 is None or self.judge is None or self.judge.ci95 is None:
            return True
        return _side(self.judge.ci95, self.even) in (0, _side(self.corrected.ci95, self.even))

    def turned_round(self) -> CorrectedNumber:
        """The same of b beside a."""

        def turned(one: Estimate | None) -> Estimate | None:
            if one is None:
                return None
            whole = 2 * self.even
            ends = None if one.ci95 is None else (whole - one.ci95[1], whole - one.ci95[0])
            return one.model_copy(update={"value": whole - one.value, "ci95": ends})

        numbers = {"labels": turned(self.labels), "judge": turned(self.judge), "corrected": turned(self.corrected)}
        return self.model_copy(update={"a": self.b, "b": self.a} | numbers)


def _side(ends: Interval95, even: float) -> int:
    """1 for an interval above even, -1 for one below, 0 for one that holds it."""
    return (ends[0] > even) - (ends[1] < even)


class Voter(_Model):
    """One person of a file of votes. votes: that stand, repeats and skipped ones among them. left: how often the
    left one was preferred where one was. others: how often another person said the same of the answers. itself: how
    often this person did, asked again with sides swapped. seconds: the median of a vote. told: what to doubt."""

    person: str
    votes: int
    skipped: int
    left: Estimate | None = None
    others: Estimate | None = None
    itself: Estimate | None = None
    seconds: float | None = None
    told: list[str] = []


class Voting(_Model):
    """What only votes know, since they say who saw which answer on which side: of all persons together, as of each
    in Voter. repeated: votes on answers that the person had judged before."""

    votes: int
    skipped: int
    repeated: int
    left: Estimate | None = None
    itself: Estimate | None = None
    seconds: float | None = None
    persons: list[Voter] = []


class People(_Model):
    """source: the file. votes, persons, prompts: how many. ties: answers that count as ties, being the same text.
    not_random: how labelled answers differ from the others by more than chance, in words. told: what was left
    out. voting: of a file of votes."""

    source: str
    votes: int
    persons: int
    prompts: int
    agreement: list[RaterAgreement] = []
    lengths: list[LengthAgreement] = []
    numbers: list[CorrectedNumber] = []
    not_random: list[str] = []
    told: list[str] = []
    ties: int = 0
    voting: Voting | None = None

    def number_of(self, a: str, b: str) -> CorrectedNumber | None:
        """What people say of a beside b: how often it wins, or without labels of these two the difference of their
        win rates."""
        for kind in ("rate", "difference"):
            for one in self.numbers:
                if one.kind == kind and {one.a, one.b} == {a, b}:
                    return one if one.a == a else one.turned_round()
        return None
