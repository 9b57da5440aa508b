"""Chat templates as what they are, programs of other people's: rendered within limits of time, memory and size; the
header of an assistant's turn, where a template does not write it when it should.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from jinja2 import TemplateSyntaxError

from trimtab.data.encoding import RefusedRowError
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "trimtab probe"
SECONDS = 10.0
"""A conversation takes a template well under a hundredth of one."""
CHARACTERS = 1_000_000
"""What a template may write beyond ten times what its conversation says."""
MEMORY = 4 << 30
"""Bytes by which the process may grow while a template renders one conversation."""
POLL = 0.1
Result = TypeVar("Result")
Turn = Mapping[str, JsonValue]


class Templated(Protocol):
    """What renders conversations: a tokenizer, or one seen with one of its templates."""

    def apply_chat_template(
        self, turns: Sequence[Turn], /, *, tokenize: bool, add_generation_prompt: bool, **values: JsonValue
    ) -> str:
        """A conversation as text."""


def render(tokenizer: Templated, turns: Sequence[Turn], *, prompt: bool, **values: JsonValue) -> str:
    """A conversation in the tokenizer's template. prompt: with the header of the assistant's turn at the end.

    RefusedRowError where the template does not take this conversation, TrimtabError where it takes none.
    """

    def apply() -> str:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt, **values)

    try:
        text = limited(apply)
    except TrimtabError:
        raise
    except TemplateSyntaxError as error:
        raise TrimtabError(f"the chat template cannot be read: line {error.lineno}: {_line(error)}") from None
    except Exception as error:  # templates raise whatever they like
        roles = " → ".join(str(turn["role"]) for turn in turns)
        raise RefusedRowError(f"the chat template refuses a conversation ({roles}): {_line(error)}") from None
    if len(text) > CHARACTERS and len(text) > CHARACTERS + 10 * len(str(turns)) + 10 * len(str(values)):
        raise TrimtabError(f"the chat template writes {len(text):,} characters around one conversation: mend it.")
    return text


def remembered(render: Callable[..., str], size: int) -> Callable[..., str]:
    """The same, each conversation rendered once; what a template raises is raised again: its time is taken once."""

    @lru_cache(size)
    def outcome(*conversation: Hashable) -> str | TrimtabError:
        try:
            return render(*conversation)
        except TrimtabError as error:
            return error.with_traceback(None)

    def again(*conversation: Hashable) -> str:
        found = outcome(*conversation)
        if isinstance(found, TrimtabError):
            raise found.with_traceback(None)
        return found

    return again


def with_default_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer; TrimtabError where it has several templates and nobody could say which."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping) and "default" not in template:
        named = ", ".join(template)
        raise TrimtabError(f"the tokenizer has several chat templates ({named}), and none that is called default.")
    return tokenizer


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# ---- limits


class _InterruptedError(Exception):
    pass


class _Watchdog:
    """A thread that interrupts others: a template may hold any thread up, and signals reach the first one only."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.since: dict[int, list[float]] = {}
        self.why: dict[int, str] = {}
        self.thread: threading.Thread | None = None

    def begin(self, thread: int) -> None:
        """From now on the thread is interrupted where it takes too long, or too much memory."""
        with self.lock:
            self.since[thread] = [0.0, _memory()]
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._watch, name="trimtab template watch", daemon=True)
                self.thread.start()

    def end(self, thread: int) -> str:
        """The thread is not interrupted from now on. Gives why it was, or ""."""
        with self.lock:
            self.since.pop(thread, None)
            why = self.why.pop(thread, "")
            if why:  # never without need: under a profiler Python would not go on from it
                _raise_in(thread, None)
            return why

    def _watch(self) -> None:
        idle = 0.0
        while idle < SECONDS:
            time.sleep(POLL)
            with self.lock:
                idle = 0.0 if self.since else idle + POLL
                for thread, state in self.since.items():
                    # Time in steps of its own: a machine that slept in between did not spend it.
                    state[0] += POLL
                    if state[0] > SECONDS:
                        self.why[thread] = f"takes more than {SECONDS:g} s for one conversation: an endless loop?"
                    elif _memory() - state[1] > MEMORY:
                        self.why[thread] = f"takes more than {MEMORY >> 30} GiB of memory for one conversation."
                    if thread in self.why:
                        _raise_in(thread, _InterruptedError)


_watchdog = _Watchdog()


def _forget_threads() -> None:
    """In a process that was forked: only the thread that forked is there, and nobody would free the lock."""
    _watchdog.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget_threads)


def limited(work: Callable[[], Result]) -> Result:
    """What `work` returns; TrimtabError where it takes too long, or too much memory."""
    thread, why = threading.get_ident(), ""
    try:
        _watchdog.begin(thread)
        try:
            return work()
        finally:
            why = _watchdog.end(thread)
    except _InterruptedError:
        why = _watchdog.end(thread) or why
        raise TrimtabError(f"the chat template {why} Mend it, or name another tokenizer.") from None


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


def _memory() -> float:
    """The most that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


# ---- the header of an assistant's turn


def with_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy whose template writes the assistant's header when asked for a generation prompt.

    A template that knows no `add_generation_prompt` writes the header with an answer only: it would be learned as
    the answer's beginning. Its own header is put behind it, and whoever loads what is saved gets the same prompt.
    """
    template = tokenizer.chat_template
    if not template:
        return tokenizer
    by_name = dict(template) if isinstance(template, Mapping) else {"default": template}
    completed = {name: _completed(tokenizer, text) for name, text in by_name.items()}
    if completed == by_name:
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = completed if isinstance(template, Mapping) else completed["default"]
    return changed


def _completed(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The template, with a generation prompt where it had none."""
    user, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}

    def header(*turns: dict[str, str]) -> str | None:
        """What stands before an answer to these turns and is not in their prompt."""
        before, prompted = (render(templated, turns, prompt=asked) for asked in (False, True))
        answered = render(templated, [*turns, answer], prompt=False)
        writes_prompt = before != prompted or not answered.startswith(before)
        return None if writes_prompt else answered[len(before) :].rpartition(PROBE)[0]

    templated = _OneTemplate(tokenizer, template)
    try:
        missing = header(user)
    except RefusedRowError:  # the format's own probes say so, where it matters
        return template
    # A blank alone is the answer's own: Llama 2 writes " answer" behind "[/INST]".
    if not missing or not missing.strip():
        return template
    try:
        same = header(user, answer, user) == missing
    except RefusedRowError:  # takes one turn only
        same = True
    if not same:
        raise TrimtabError(
            "the chat template writes no generation prompt, and not the same header before every answer: mend it "
            "(add_generation_prompt)."
        )
    # jinja leaves out a template's last line break: it must not come back before what is added.
    literal = json.dumps(missing, ensure_ascii=False)
    return template.removesuffix("\n") + "{%+ if add_generation_prompt %}{{ " + literal + " }}{% endif %}"


class _OneTemplate:
    """A tokenizer seen with one of its templates."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer, self.chat_template = tokenizer, template

    def apply_chat_template(self, turns: Sequence[Turn], /, **arguments: JsonValue) -> str:
        """A conversation as text, by this template."""
        text: str = self.tokenizer.apply_chat_template(turns, chat_template=self.chat_template, **arguments)
        return text
