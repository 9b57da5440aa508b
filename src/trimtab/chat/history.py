"""What was said so far to one model, and by it."""

from __future__ import annotations

from trimtab.data.message import Message, Turns


class History:
    """The turns of a conversation, a system turn apart."""

    def __init__(self) -> None:
        self.system: str | None = None
        self.turns: list[Message] = []

    def asked_with(self, text: str) -> Turns:
        """The turns up to the next answer, when this text is said."""
        system = [Message("system", self.system)] if self.system else []
        return (*system, *self.turns, Message("user", text))

    def add(self, text: str, answer: str) -> None:
        """Keeps a turn and its answer."""
        self.turns += [Message("user", text), Message("assistant", answer)]

    def undo(self) -> str | None:
        """Forgets the last turn and its answer, and returns the turn; None where there is none."""
        if not self.turns:
            return None
        asked, _ = self.turns[-2:]
        del self.turns[-2:]
        return asked.content

    def reset(self) -> None:
        """Forgets all turns; the system turn stays."""
        self.turns.clear()
