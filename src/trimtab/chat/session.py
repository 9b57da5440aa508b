"""A conversation in the terminal, or through a pipe: lines in, answers out.

A line is said to every model, and each answers for itself. A line that begins with / is a command; one that ends
with \\ goes on in the next. Answers go to standard output as they come, everything else to standard error.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from trimtab.chat.speaker import Answer, Speaker
from trimtab.errors import TrimtabError
from trimtab.notices import say
from trimtab.stopping import Stopped

HELP = """\
/system TEXT   what the model is told before the conversation; without TEXT: nothing
/undo          forgets the last turn and its answer
/reset         forgets all turns
/seed N        other random numbers from here on
/help          these lines
/exit          leaves, as Ctrl-D does; Ctrl-C stops an answer
A line that begins with // is said with one /. A line that ends with \\ goes on in the next."""
ASK, GO_ON = "> ", "… "
UNSEEN = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}
"""Control characters: a model's text moves no cursor and colours nothing."""
ENDINGS = {
    "cap": "cut at {cap} tokens (--max-new-tokens)",
    "room": "cut: the conversation has filled the model's {room} positions; /undo or /reset makes room",
    "interrupted": "stopped",
}


class Session:
    """One conversation with some models. lines: where turns come from; out: where answers go. asks: whether a
    person sits there, and is prompted."""

    def __init__(self, speakers: Sequence[Speaker], lines: TextIO, out: TextIO, asks: bool) -> None:
        self.speakers, self.lines, self.out, self.asks = speakers, lines, out, asks
        self.commands: dict[str, Callable[[str], None]] = {
            "/system": self._system, "/undo": self._undo, "/reset": self._reset, "/seed": self._seed,
            "/help": lambda _: say(HELP), "/exit": self._exit, "/quit": self._exit,
        }  # fmt: skip
        self.left = False

    def run(self) -> None:
        """Until /exit, or until there are no more lines."""
        if self.asks:
            with suppress(ImportError):
                import readline  # noqa: F401  (input() then knows arrows and what was typed before)
        while not self.left:
            try:
                line = self._line()
            except KeyboardInterrupt as stop:
                if not _by_hand(stop):
                    raise
                self.out.write("\n")
                say("Ctrl-D or /exit leaves.")
                continue
            if line is None:
                break
            self._take(line)
        if self.asks and not self.left:
            self.out.write("\n")

    def _line(self) -> str | None:
        """The next line, with those that go on from it; None at the end."""
        parts: list[str] = []
        while True:
            part = self._read(GO_ON if parts else ASK)
            if part is None:
                return "\n".join(parts) if parts else None
            if not part.endswith("\\"):
                return "\n".join([*parts, part])
            parts.append(part[:-1])

    def _read(self, prompt: str) -> str | None:
        if self.asks:
            try:
                return input(prompt)
            except EOFError:
                return None
        line = self.lines.readline()
        return line.removesuffix("\n").removesuffix("\r") if line else None

    def _take(self, line: str) -> None:
        """A command, or a turn."""
        if not line.strip():
            return
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line.strip().partition(" ")
            command = self.commands.get(name)
            if command is None:
                say(f"{name}: no such command; /help lists them, and // says a line that begins with /")
            else:
                command(rest.strip())
            return
        self._answer(line.removeprefix("/") if line.startswith("//") else line)

    def _answer(self, text: str) -> None:
        for speaker in self.speakers:
            if len(self.speakers) > 1:
                self._write(f"[{speaker.name}] ")
            try:
                answer = speaker.answer(text, self._write)
            except TrimtabError as error:
                self._write("\n")
                say(f"error: {error}")
                continue
            self._write("\n")
            self._say_ending(speaker, answer)

    def _say_ending(self, speaker: Speaker, answer: Answer) -> None:
        if answer.ending in ENDINGS:
            ending = ENDINGS[answer.ending].format(cap=speaker.settings.max_new_tokens, room=speaker.room)
            say(f"({ending})")

    def _write(self, text: str) -> None:
        self.out.write(text.translate(UNSEEN))
        self.out.flush()

    # ---- commands

    def _system(self, text: str) -> None:
        for speaker in self.speakers:
            if not speaker.converses:
                say(f"{speaker.name}: has no chat template, so nothing reads a system turn")
                continue
            speaker.history.system = text or None
            if speaker.history.turns:
                say(f"{speaker.name}: holds for the turns before, too; /reset forgets them")

    def _undo(self, _: str) -> None:
        undone = [speaker.history.undo() for speaker in self.speakers]
        said = next((text for text in undone if text is not None), None)
        say("there is no turn to undo" if said is None else f"undone: {said}")

    def _reset(self, _: str) -> None:
        for speaker in self.speakers:
            speaker.history.reset()

    def _seed(self, text: str) -> None:
        if not (text.isascii() and text.isdigit() and int(text) < 2**64):
            say(f"/seed {text}: expected a whole number from 0, such as /seed 1")
            return
        for speaker in self.speakers:
            speaker.restart(int(text))

    def _exit(self, _: str) -> None:
        self.left = True


def _by_hand(stop: KeyboardInterrupt) -> bool:
    """Whether it was Ctrl-C, and no scheduler's signal."""
    return not isinstance(stop, Stopped) or stop.signum == signal.SIGINT


def converse(speakers: Sequence[Speaker]) -> None:
    """A conversation over this process's own streams."""
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    for speaker in speakers:
        kind = "" if speaker.converses else " No chat template: it completes what you type, each line by itself."
        say(f"{speaker.name}: {speaker.in_words}.{kind}")
    if asks:
        say("/help lists the commands, Ctrl-D leaves.")
    Session(speakers, sys.stdin, sys.stdout, asks).run()
