"""The progress of a training run: its steps, with loss and tokens a second."""

from __future__ import annotations

from trimtab.progress import Progress


class StepProgress(Progress):
    """Shows how far a run has come. total: its steps, of which `done` were taken before."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        super().__init__(title, total, "steps", done, stays=True)
        self.smooth: float | None = None

    def show_step(self, loss: float | None, tokens: int) -> None:
        """Shows one step more, with its loss and the tokens that it took."""
        if loss is not None:
            self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        shown = "–" if self.smooth is None else f"{self.smooth:.4f}"
        self.advance(tokens=tokens, note=f"loss {shown}")
