"""What the cache keeps, for whom, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards.base import Scored
from trimtab.rewards.cache import ScoreCache, digest


def test_a_score_belongs_to_its_reward_prompt_and_completion(tmp_path: Path) -> None:
    """A text and the conversation of it alone are two prompts: rewards may read them otherwise."""
    cache = ScoreCache(tmp_path / "deep" / "scores.sqlite")
    turn = (Message("user", "p"),)
    kept = {("p", "c"): 0.1, ("p", "d"): 0.0, ("q", "c"): -2.5, (turn, "c"): 1e300}
    for item, score in kept.items():
        cache.put("a", item, Scored(score, breakdown={"helpfulness": score}))
    cache.put("b", ("p", "c"), Scored(7.0))
    again = ScoreCache(cache.path)
    assert {item: one.score for item, one in again.get("a", [*kept, ("c", "p")]).items()} == kept
    assert again.get("a", [("p", "d")])["p", "d"].breakdown == {"helpfulness": 0.0}
    assert again.get("b", kept) == {("p", "c"): Scored(7.0)}
    assert again.count() == 5


def test_the_first_score_stays(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    for score in (1.0, 2.0):
        cache.put("a", ("p", "c"), Scored(score))
    assert cache.get("a", [("p", "c")])["p", "c"].score == 1.0


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_failures_are_not_kept(score: float | None, tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    with pytest.raises(ValueError, match="only a score is kept"):
        cache.put("a", ("p", "c"), Scored(score))
    assert cache.count() == 0


def test_a_file_that_is_something_else_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("my letter, which is long enough to be read as a header")
    with pytest.raises(TrimtabError, match=r"score cache .*letter\.txt: .*Mend or remove"):
        ScoreCache(path).get("a", [("p", "c")])
    assert path.read_text().startswith("my letter")
    with pytest.raises(TrimtabError, match=r"score cache"):
        ScoreCache(path / "below").count()


@given(st.lists(st.text(max_size=8), min_size=2, max_size=2, unique=True))
def test_texts_that_differ_have_digests_that_differ(texts: list[str]) -> None:
    """Lone surrogates, NUL and all: nothing is normalised away."""
    assert len({digest(text) for text in texts}) == 2
    assert len({digest((Message("user", text),)) for text in texts} | {digest(text) for text in texts}) == 4
    assert digest((Message(*texts),)) != digest((Message(*reversed(texts)),))
