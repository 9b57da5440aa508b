"""The progress bar of a run: loss, tokens a second, time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trimtab.notices import console, in_context, is_quiet, say


class StepProgress:
    """Shows how far a run has come: a bar on a terminal, a line now and then where there is none."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.tokens, self.started, self.printed = 0, time.monotonic(), time.monotonic()
        self.smooth: float | None = None
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=console,
            disable=is_quiet() or not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task(in_context(title), total=total, completed=done, note="")

    def __enter__(self) -> StepProgress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, loss: float | None, tokens: int) -> None:
        """Shows one step more, with its loss and the tokens that it took."""
        self.done += 1
        self.tokens += tokens
        if loss is not None:
            self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        now = time.monotonic()
        shown = "–" if self.smooth is None else f"{self.smooth:.4f}"
        note = f"loss {shown}  {self.tokens / max(now - self.started, 1e-9):,.0f} tok/s"
        self.bar.update(self.task, completed=self.done, note=note)
        if not console.is_terminal and (now - self.printed > 30 or self.done == self.total):
            self.printed = now
            say(f"{self.title}: {self.done}/{self.total}  {note}")
