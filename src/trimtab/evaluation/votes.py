"""What people said of answers: votes on two of them, and what a reader must know of where they are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data.vote_file import CastVote


@dataclass(frozen=True, slots=True)
class Vote:
    """One person on two answers to a prompt. id: the prompt's, as answers have it. share: 1 where the first
    method's answer is better, ½ for a tie, 0 where the second's is, or between. seed: the training seed that
    answered; None where there is one only."""

    id: str
    first: str
    second: str
    share: float
    person: str
    seed: int | None = None


@dataclass(frozen=True)
class Labels:
    """source: in words, as a file's name. told: what was left out of them, a line each. ties: nobody's, of prompts
    whose two answers are the same text. cast: the votes as they were cast, where the file says that."""

    source: str
    votes: Sequence[Vote]
    told: Sequence[str] = ()
    ties: Sequence[Vote] = ()
    cast: Sequence[CastVote] = ()
