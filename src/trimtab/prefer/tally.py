"""What the votes of a file say that stand: by person, and how many persons judged each item.

Votes are only ever added, so a tally that reads the rows which came since it last looked, whoever wrote them, knows
as much as one that reads them all; a page of many votes is answered as fast as one of few.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass

_NEW = "SELECT number, vote_id, item, person, repeated, verdict, undoes FROM votes WHERE number > ? ORDER BY number"


@dataclass(frozen=True, slots=True)
class Standing:
    """One vote that stands. number: its row."""

    number: int
    vote_id: str
    item: str
    person: str
    repeated: bool
    skipped: bool


class Tally:
    """Kept up with a file by `catch_up`. by_person: each person's votes that stand, by their numbers, in order."""

    def __init__(self) -> None:
        self.by_person: defaultdict[str, dict[int, Standing]] = defaultdict(dict)
        self._all: dict[int, Standing] = {}
        self._judges: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seen = 0

    def catch_up(self, database: sqlite3.Connection) -> set[str]:
        """Reads what was added since the last call, and returns the items that it is about."""
        touched = set()
        for number, vote_id, item, person, repeated, verdict, undoes in database.execute(_NEW, (self._seen,)):
            self._seen = number
            touched.add(item)
            if verdict == "undo":
                self._take_back(undoes)
            else:
                self._add(Standing(number, vote_id, item, person, bool(repeated), verdict == "skip"))
        return touched

    def _add(self, vote: Standing) -> None:
        self._all[vote.number] = self.by_person[vote.person][vote.number] = vote
        if not vote.skipped:
            self._judges[vote.item][vote.person] += 1

    def _take_back(self, number: int) -> None:
        vote = self._all.pop(number)
        del self.by_person[vote.person][number]
        if not vote.skipped:
            judges = self._judges[vote.item]
            judges[vote.person] -= 1
            if not judges[vote.person]:
                del judges[vote.person]

    def persons_of(self, item: str) -> int:
        """How many persons judged an item; who skipped it did not."""
        return len(self._judges[item]) if item in self._judges else 0

    def last_of(self, person: str) -> Standing | None:
        """The person's latest vote that stands."""
        votes = self.by_person.get(person)
        return votes[next(reversed(votes))] if votes else None

    @property
    def counts(self) -> dict[str, int]:
        """By person, how many of their votes stand; in the order in which persons came."""
        return {person: len(votes) for person, votes in self.by_person.items() if votes}
