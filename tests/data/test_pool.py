"""Work that several processes share: results and errors come in the order of the items."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import active_children

import pytest

from trimtab.data.pool import in_order
from trimtab.errors import TrimtabError


def square(number: int) -> int:
    if number in (13, 17):
        raise TrimtabError(f"item {number}")
    if number == 19:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def until(end: int) -> Iterator[int]:
    yield from range(end)
    raise TrimtabError(f"no item {end}")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_and_errors_in_order(count: int) -> None:
    seen: list[int] = []
    with pytest.raises(TrimtabError, match="item 13"):
        seen.extend(in_order(square, until(18), count))
    assert seen == [number * number for number in range(13)]
    with pytest.raises(TrimtabError, match="no item 13"):
        list(in_order(square, until(13), count))
    assert list(in_order(square, range(9), count)) == [0, 1, 4, 9, 16, 25, 36, 49, 64]


def test_work_needs_no_name_that_can_be_pickled() -> None:
    assert list(in_order(lambda number: number + 1, range(5), 2)) == [1, 2, 3, 4, 5]


def test_a_process_that_is_killed_is_said() -> None:
    with pytest.raises(TrimtabError, match="a process that prepared rows was killed"):
        list(in_order(square, [1, 19, 2], 2))


def test_nothing_is_left_of_it() -> None:
    """Neither processes nor a word to the tokenizers, also where nobody wants the rest."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    others = set(active_children())
    results = in_order(square, range(10), 2)
    assert next(results) == 0
    assert len(set(active_children()) - others) == 2
    results.close()  # type: ignore[attr-defined]
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before
    assert set(active_children()) <= others
