"""How far a long loop is, at what rate, and how long it will still take.

    with Progress("perplexity", len(groups), "answers") as progress:
        for group in groups:
            …
            progress.advance(tokens=group.completion_tokens)

On a terminal that is a bar. In a log file it is a line within five seconds, and then at growing intervals. A thread
says it, so that one slow item keeps no line back. A loop inside another is shown with it and shares its lines.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from trimtab.formats import rough_duration
from trimtab.notices import FIRST_PROCESS, console, in_context, is_quiet, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Item = TypeVar("Item")
FIRST, GROWTH, LONGEST = 3.0, 2.0, 300.0
"""Seconds until the first line; how much later than the last each further one is; the longest time between two."""

_going_on: list[Progress] = []
"""The innermost last: what is inside is shown with what is around it."""


def next_line(seconds: float) -> float:
    """When the line after one at so many seconds is due: 3, 6, 12, … and from 300 on every 300."""
    return min(seconds * GROWTH, seconds + LONGEST)


class Progress:
    """Shows how far a loop has come.

    title: of what is done. total: how many items there are; None where nobody knows. unit: what an item is called,
    in the plural. done: items that were there before. work: where items differ and their sizes are known, the sum
    of the sizes; `advance` takes each one's. most: where they are not known, the most tokens of an item: what is
    left is reckoned from the tokens of those that are done. stays: whether the last state is shown in any case.
    clock: gives seconds.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str = "rows",
        done: int = 0,
        *,
        work: float | None = None,
        most: int | None = None,
        stays: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.unit, self.before, self.done = title, total, unit, done, done
        self.work, self.most, self.stays, self.clock = work, most, stays, clock
        self.tokens, self.worked, self.note = 0, 0.0, ""
        self.started, self.due, self.said = clock(), FIRST, False
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.bars: Bars | None = None
        self.task: Any = None

    # ---- while it goes on

    def __enter__(self) -> Self:
        self.started = self.clock()
        outer = _going_on[0] if _going_on else None
        _going_on.append(self)
        if is_quiet() or not FIRST_PROCESS:
            return self
        if console.is_terminal:
            self.bars = outer.bars if outer is not None and outer.bars is not None else self._open_bars()
            self.task = self.bars.add_task(in_context(self.title), total=self.total, completed=self.done, of=self)
        elif outer is None:
            self.thread = threading.Thread(target=self._tell_when_due, daemon=True, name="progress")
            self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        _going_on.remove(self)
        if self.thread is not None:
            self.thread.join()
        if self.bars is not None:
            self.bars.update(self.task, completed=self.done)
            if _going_on and _going_on[0].bars is self.bars:
                self.bars.remove_task(self.task)
            else:
                self.bars.stop()
        elif kind is None and self.total is not None and not _going_on and (self.stays or self.said):
            say(self.line(self.clock()))

    def advance(self, items: int = 1, *, tokens: int = 0, work: float = 0.0, note: str = "") -> None:
        """So many items more are done, of so many tokens and of this size. note: what else is to be said of now."""
        self.done += items
        self.tokens += tokens
        self.worked += work
        self.note = note or self.note
        if self.bars is not None:
            self.bars.update(self.task, completed=self.done)

    def skip(self, items: int) -> None:
        """So many items were there before: they count as done, and say nothing of the rate."""
        self.before += items
        self.advance(items)

    def reach(self, done: int, total: int | None = None) -> None:
        """So many items are done, of so many."""
        self.total = self.total if total is None else total
        self.advance(done - self.done)

    def _open_bars(self) -> Bars:
        from rich import progress as rich  # for terminals alone
        from rich.text import Text

        class Words(rich.ProgressColumn):
            def render(self, task: rich.Task) -> Text:
                of: Progress = task.fields["of"]
                return Text(of.words(of.clock()))

        bars = rich.Progress(
            rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), Words(),
            console=console, transient=not self.stays,
        )  # fmt: skip
        bars.start()
        return bars

    # ---- in words

    def _tell_when_due(self) -> None:
        while not self.ended.wait(max(0.0, self.started + self.due - self.clock())):
            self.tell(self.clock())

    def tell(self, now: float) -> None:
        """Says how far it is, if a line is due."""
        if now - self.started < self.due:
            return
        self.due = max(next_line(self.due), now - self.started + FIRST)
        self.said = True
        shown = [progress for progress in _going_on[:-1] if progress.total is not None] + _going_on[-1:]
        say("; ".join(progress.line(now) for progress in shown or [self]))

    def line(self, now: float) -> str:
        """All in one line: "perplexity: 12/64 answers, 3,412 tokens, 210 tok/s, 3 min left"."""
        words = self.words(now)
        if self.total is None and not self.done:
            return f"{self.title}: {words}"
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        return f"{self.title}: {count} {self.unit}, {words}"

    def words(self, now: float) -> str:
        """All but how many are done."""
        seconds = max(now - self.started, 1e-9)
        parts = [self.note] if self.note else []
        parts += [f"{self.tokens:,} tokens"] if self.tokens else []
        parts += [self._rate(seconds)]
        left = self.seconds_left(now)
        if left is None or self.done == self.total:
            parts.append(
                f"{rough_duration(seconds)} so far" if self.done != self.total else rough_duration(seconds)
            )
        else:
            # Before the first item is done, only the cap says how long they are.
            bound = "at most " if self.most is not None and self.done == self.before else ""
            parts.append(f"{bound}{rough_duration(left)} left")
        return ", ".join(part for part in parts if part)

    def _rate(self, seconds: float) -> str:
        if self.tokens:
            return f"{self.tokens / seconds:,.0f} tok/s"
        items = self.done - self.before
        if not items:
            return ""
        singular = self.unit.removesuffix("s")
        return (
            f"{items / seconds:,.1f} {self.unit}/s"
            if items >= seconds
            else f"{seconds / items:,.1f} s a {singular}"
        )

    def seconds_left(self, now: float) -> float | None:
        """How long it still takes, if the rest goes like what is done; None where nothing is known yet."""
        share = self._share()
        return (now - self.started) * (1 - share) / share if share else None

    def _share(self) -> float:
        """How much of what there was to do is done, from 0 to 1; 0 where that is unknown."""
        if self.total is None:
            return 0.0
        items, all_items = self.done - self.before, self.total - self.before
        if self.work is not None:
            return min(1.0, self.worked / self.work) if self.work else 1.0
        if self.most is not None:
            # Tokens of items that are not done count too, as a lifetime's mean does that sees no end of some.
            mean = min(self.most, self.tokens / items) if items else self.most
            return min(1.0, self.tokens / (mean * all_items)) if mean and all_items else 0.0
        return min(1.0, items / all_items) if all_items else 1.0


def counted(title: str, items: Sequence[Item], unit: str = "rows") -> Iterator[Item]:
    """The items one after the other, while it is shown how many were taken."""
    with Progress(title, len(items), unit) as progress:
        for item in items:
            yield item
            progress.advance()
