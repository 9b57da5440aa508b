"""The reader of completions, sentence by sentence: what each says, worked out by hand."""

from __future__ import annotations

import pytest

from trimtab.sandbox.claims import Claim, Comparison, Reader, Reading

L, M, H = frozenset({0}), frozenset({1}), frozenset({2})
RENT, WINTER = "city.rent", "city.winter"


def read(text: str) -> Reading:
    return Reader("city", ("Lisbon", "London")).read(text)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("Lisbon has low rent.", [("Lisbon", RENT, L)]),
        ("In London, rent is high.", [("London", RENT, H)]),
        ("Rent is low in Lisbon and high in London.", [("Lisbon", RENT, L), ("London", RENT, H)]),
        ("Lisbon and London have mild winters.", [("Lisbon", WINTER, L), ("London", WINTER, L)]),
        ("Both have mild winters.", [("Lisbon", WINTER, L), ("London", WINTER, L)]),
        ("Lisbon does not have high rent.", [("Lisbon", RENT, L | M)]),
        ("Lisbon is fairly cheap.", [("Lisbon", RENT, L | M)]),
        ("Lisbon is nice. It has low rent and cool winters.", [("Lisbon", RENT, L), ("Lisbon", WINTER, M)]),
        ("Unlike London, Lisbon has low rent.", [("Lisbon", RENT, L)]),
        ("Does Lisbon have low rent?", []),
        ("Lisbon is the best for cheap housing.", []),
        ("My data has high rent.", []),
    ],
)
def test_claims(text: str, claims: list[tuple[str, str, frozenset[int]]]) -> None:
    assert list(read(text).claims) == [Claim(*c) for c in claims]


@pytest.mark.parametrize(
    ("text", "recommended", "rejected"),
    [
        ("Choose Lisbon.", ["Lisbon"], []),
        ("Choose Lisbon over London.", ["Lisbon"], ["London"]),
        ("I would pick Lisbon, not London.", ["Lisbon"], ["London"]),
        ("London is not a good choice.", [], ["London"]),
        ("Avoid London and choose Lisbon.", ["Lisbon"], ["London"]),
        ("Lisbon is better than London.", ["Lisbon"], ["London"]),
        ("London has high rent, so it is worse.", [], ["London"]),
        ("The other one is best.", ["Lisbon", "London"], []),
        ("Lisbon is nice. The other one is best.", ["London"], []),
        ("The best choice is, of course, Lisbon.", ["Lisbon"], []),
        ("Lisbon has low rent. The better choice is clear.", [], []),
        ("Should I choose London?", [], []),
        ("These fit:\n- Lisbon\n- London", ["Lisbon", "London"], []),
    ],
)
def test_recommendations(text: str, recommended: list[str], rejected: list[str]) -> None:
    reading = read(text)
    assert (list(reading.recommended), list(reading.rejected)) == (recommended, rejected)


def test_comparisons() -> None:
    assert list(read("Lisbon is cheaper than London.").comparisons) == [Comparison("Lisbon", "London", RENT, -1)]
    assert list(read("London has higher rent.").comparisons) == [Comparison("London", "Lisbon", RENT, 1)]
    assert list(read("Lisbon is not cheaper than London.").comparisons) == [Comparison("Lisbon", "London", RENT, 1)]
