"""Who is told how far decoding is, and of every row that is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from trimtab.progress import Progress


def _nobody(place: int, tokens: Sequence[int]) -> None:
    """Takes a row and forgets it."""


@dataclass(frozen=True)
class Watch:
    """progress: counts rows and tokens. whole: takes the place of a row's prompt and the row's tokens, the one that
    stopped it included."""

    progress: Progress
    whole: Callable[[int, Sequence[int]], None] = _nobody


@contextmanager
def watching(watch: Watch | None, rows: int, cap: int) -> Iterator[Watch]:
    """The watch, or one that shows the progress of so many rows of at most `cap` tokens."""
    if watch is not None:
        yield watch
        return
    with Progress("samples", rows, "samples", most=cap) as progress:
        yield Watch(progress)
