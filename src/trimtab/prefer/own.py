"""Side by side: a prompt of one's own, answered by two models. One prompt at a time, in a thread beside the server.

Which two models answer, and which stands left, follows from the person and the prompt; the page learns neither. The
item is written before it is shown, so that a vote on it is kept whatever happens to the server.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from trimtab.data.vote_file import Item
from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import item_id, number_of

if TYPE_CHECKING:
    from trimtab.chat.speaker import Speaker

WAITING = 20
"""Prompts that may wait at once."""
REMEMBERED = 1000
"""Prompts whose end is remembered."""

Stage = Literal["waiting", "answering", "done", "failed"]


@dataclass
class Asked:
    """One prompt. ahead: prompts before it."""

    ask_id: str
    person: str
    prompt: str
    stage: Stage = "waiting"
    item: Item | None = None
    error: str = ""


class FullError(Exception):
    """There is no room for another prompt now."""


class _Closing(Exception):  # noqa: N818  (an end, no error)
    pass


class OwnPrompts:
    """models: how each method's model is loaded. add: takes an item that is to be judged."""

    def __init__(self, models: Mapping[str, Callable[[], Speaker]], add: Callable[[Item], None]) -> None:
        self._load, self._add = dict(models), add
        self._speakers: dict[str, Speaker] = {}
        self._asked: dict[str, Asked] = {}
        self._queue: queue.Queue[Asked | None] = queue.Queue()
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="side by side", daemon=True)
        self._thread.start()

    def ask(self, ask_id: str, person: str, prompt: str) -> Asked:
        """Takes a prompt, or says how far the one with this id is. FullError."""
        with self._lock:
            known = self._asked.get(ask_id)
            if known is not None:
                return known
            waiting = [one for one in self._asked.values() if one.stage in ("waiting", "answering")]
            if len(waiting) >= WAITING or any(one.person == person for one in waiting):
                raise FullError
            while len(self._asked) >= REMEMBERED:
                del self._asked[next(iter(self._asked))]
            asked = self._asked[ask_id] = Asked(ask_id, person, prompt)
        self._queue.put(asked)
        return asked

    def state(self, ask_id: str, person: str) -> tuple[Asked, int] | None:
        """A prompt, and how many stand before it; None where it is not known, or another person's."""
        with self._lock:
            asked = self._asked.get(ask_id)
            if asked is None or asked.person != person:
                return None
            before = list(self._asked.values())
            before = before[: before.index(asked)]
            return asked, sum(one.stage in ("waiting", "answering") for one in before)

    def close(self) -> None:
        """Ends the answer that is being written."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(5.0)

    def _work(self) -> None:
        while (asked := self._queue.get()) is not None:
            if self._closing.is_set():
                return
            asked.stage = "answering"
            try:
                asked.item = self._answered(asked)
                self._add(asked.item)
                asked.stage = "done"
            except _Closing:
                return
            except TrimtabError as error:
                asked.error, asked.stage = str(error), "failed"
            except Exception as error:  # a model's library raises whatever it likes; the thread goes on
                asked.error, asked.stage = f"the models could not answer ({type(error).__name__})", "failed"

    def _answered(self, asked: Asked) -> Item:
        first, second = self._pair(asked)
        texts = [self._say(name, asked) for name in (first, second)]
        answers = [(first, None, texts[0]), (second, None, texts[1])]
        return Item(
            id=item_id(asked.prompt, answers, "own", asked.ask_id),
            purpose="own",
            prompt_id=f"own-{asked.ask_id}",
            prompt=asked.prompt,
            messages=json.dumps([{"role": "user", "content": asked.prompt}], ensure_ascii=False),
            first=first,
            second=second,
            seed=None,
            first_completion=texts[0],
            second_completion=texts[1],
        )

    def _pair(self, asked: Asked) -> tuple[str, str]:
        pairs: Sequence[tuple[str, str]] = list(combinations(self._load, 2))
        return pairs[number_of("own", asked.ask_id) % len(pairs)]

    def _say(self, name: str, asked: Asked) -> str:
        speaker = self._speakers.get(name)
        if speaker is None:
            speaker = self._speakers[name] = self._load[name]()
        speaker.history.reset()
        speaker.restart(number_of("seed", asked.ask_id))

        def write(_: str) -> None:
            if self._closing.is_set():
                raise _Closing

        return speaker.answer(asked.prompt, write).text
