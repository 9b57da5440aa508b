"""Work on many rows in several processes, whose results come in the order of the rows.

Processes are forked, as a DataLoader's are: they begin at once with all that this one has in memory, tokenizer and
template included, and nothing need be picklable but rows and results. They touch no accelerator.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from trimtab.errors import TrimtabError

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 8
"""Processes at most: each holds its own table of words, some tens of MiB."""
AHEAD = 2
"""Items that wait for each process: it is never idle, and no more is held."""
LOOK = 0.5
"""Seconds between two looks at whether the process that wants the results still lives."""
GARBAGE = 50_000
"""New objects between two looks for garbage: rows leave little, and tables of words are long to look through."""
PARALLEL = "TOKENIZERS_PARALLELISM"
KILLED = (
    "a process that prepared rows was killed, as systems do that run out of memory. The same command begins these "
    "rows anew."
)


def processes() -> int:
    """How many processes share the rows: one for each core that this one may use."""
    if sys.platform == "darwin" or not hasattr(os, "fork"):  # its system libraries do not stand a fork
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, cores)


def in_order(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """What `work` makes of each item, in the items' order, made by `count` processes.

    An error is raised where its item's result would have come; one of the iterator of the items, behind the results
    of those that it gave: which of several comes first depends on no process.
    """
    if count == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with _pool(work, count) as pool:
        try:
            failure = None
            source = iter(items)
            while failure is None:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                waiting.append(pool.submit(_do, item))
                if len(waiting) > AHEAD * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise TrimtabError(KILLED) from None
        if failure is not None:
            raise failure


@contextmanager
def _pool(work: Callable[[Item], Result], count: int) -> Iterator[ProcessPoolExecutor]:
    before = os.environ.get(PARALLEL)
    os.environ[PARALLEL] = "false"  # tokenizers reads it in the children: their threads do not outlive a fork
    pool = ProcessPoolExecutor(count, get_context("fork"), _begin, (work, os.getpid()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            os.environ.pop(PARALLEL, None)
        else:
            os.environ[PARALLEL] = before


# ---- in a process of its own

_told: list[Callable[[Any], Any]] = []
"""This process's work, once it has begun."""


def _begin(work: Callable[[Item], Result], parent: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all: the parent ends its pool
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    gc.freeze()  # or looking for garbage would copy what is shared
    gc.set_threshold(GARBAGE)
    _told.append(work)


def _leave_with(parent: int) -> None:
    """A parent that was killed leaves nobody behind."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def _do(item: Any) -> Any:
    return _told[-1](item)
