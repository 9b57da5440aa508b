"""What votes say of who cast them: sides, time, agreement, and who is told."""

from __future__ import annotations

import numpy as np
import pytest

from prefer.cast import cast, item
from trimtab.data.vote_file import CastVote, Verdict
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.people_result import Voter, Voting
from trimtab.evaluation.voters import voting_of

ITEMS = [item(i) for i in range(400)]


def by_name(voting: Voting) -> dict[str, Voter]:
    return {voter.person: voter for voter in voting.persons}


def numbers(estimate: Estimate | None) -> tuple[float, int]:
    assert estimate is not None
    return estimate.value, estimate.n


def test_by_hand() -> None:
    """ann: left, right, left, a tie, a skip; asked again, the same once and not once. bob: on two of these."""
    votes = [
        cast(ITEMS[0], "ann", "left", milliseconds=1000), cast(ITEMS[1], "ann", "right", milliseconds=2000),
        cast(ITEMS[2], "ann", "left", swapped=True, milliseconds=None), cast(ITEMS[3], "ann", "both good"),
        cast(ITEMS[4], "ann", "skip"),
        cast(ITEMS[0], "ann", "right", swapped=True, repeated=True), cast(ITEMS[1], "ann", "right", True, True),
        cast(ITEMS[0], "bob", "right", swapped=True), cast(ITEMS[3], "bob", "left"),
        cast(ITEMS[4], "bob", "left"),
    ]  # fmt: skip
    voting = voting_of(votes)
    ann, bob = (by_name(voting)[name] for name in ("ann", "bob"))
    assert (voting.votes, voting.skipped, voting.repeated) == (10, 1, 2)
    assert (ann.votes, ann.skipped, bob.votes) == (7, 1, 3)
    assert numbers(ann.left) == (pytest.approx(2 / 3), 3)
    assert numbers(voting.left) == (pytest.approx(4 / 6), 6)
    assert numbers(ann.others) == (0.5, 2)  # what ann skipped is not shared
    assert numbers(ann.itself) == (0.5, 2)
    assert (bob.itself, ann.seconds, voting.seconds) == (None, 4.0, 4.0)
    assert voting_of(votes[:3]).seconds == 1.5


def simulated(kinds: dict[str, str], votes: int, seed: int, right: float = 0.85) -> list[CastVote]:
    """Persons by name, of these kinds: "honest" ones see what is better with this probability; "own" ones keep to a
    taste of their own as well as that; "random" and "left" ones don't look. Each item is judged by two (by one
    person alone where there is only one), a tenth of each person's again."""
    rng = np.random.default_rng(seed)
    items = ITEMS[: max(votes, votes * len(kinds) // 2)]
    better, taste = rng.random((2, len(items))) < 0.5
    found = []
    for place, (person, kind) in enumerate(kinds.items()):
        for i in range(votes):
            number = (i + place * votes // 2) % len(items)
            swapped = bool(rng.random() < 0.5)
            for repeated in (False, True)[: 1 + (i % 10 == 0)]:
                liked = taste[number] if kind == "own" else better[number]
                first = bool(liked == (rng.random() < right))
                left = first != (swapped != repeated)
                if kind == "random":
                    left = bool(rng.random() < 0.5)
                verdict: Verdict = "left" if left or kind == "left" else "right"
                found.append(cast(items[number], person, verdict, swapped != repeated, repeated))
    return found


def told(kinds: dict[str, str], votes: int = 200, seed: int = 0, right: float = 0.85) -> dict[str, str]:
    """By person, what is told of them, where anything is."""
    found = by_name(voting_of(simulated(kinds, votes, seed, right)))
    return {person: "; ".join(voter.told) for person, voter in found.items() if voter.told}


def test_who_clicks_at_random_is_told_and_nobody_else() -> None:
    """One of three, who is half of what the others are compared with."""
    for seed in range(8):
        found = told({"ann": "honest", "bob": "honest", "eve": "random"}, seed=seed)
        assert list(found) == ["eve"], (seed, found)
        assert found["eve"].startswith("votes as if at random: says what others say of ")
    assert told({"ann": "honest", "bob": "honest", "cat": "honest"}, right=0.8) == {}


def test_of_two_the_one_who_keeps_to_nothing() -> None:
    assert list(told({"ann": "honest", "eve": "random"}, right=0.95)) == ["eve"]


def test_a_taste_of_ones_own_is_no_chance() -> None:
    assert told({"ann": "honest", "bob": "honest", "own": "own"}, right=0.95) == {}


def test_one_person_alone() -> None:
    assert "of what" not in str(told({"ann": "honest"}, right=0.95))
    assert "votes as if at random: what they said before of" in told({"eve": "random"}, votes=400)["eve"]


def test_few_votes_tell_nothing() -> None:
    assert told({"ann": "honest", "bob": "honest", "eve": "random"}, votes=20) == {}


def test_one_side() -> None:
    found = told({"ann": "honest", "bob": "honest", "lea": "left"}, votes=60)
    assert "prefers the left side: 100.0 % of 60 votes" in found["lea"]
    assert "ann" not in found
    assert "bob" not in found


def test_left_share_is_covered() -> None:
    voting = voting_of(simulated({"ann": "honest", "lea": "left"}, 200, 1))
    assert voting.left is not None
    assert voting.left.ci95 is not None
    assert voting.left.ci95[0] < 0.75 < voting.left.ci95[1]
