"""Chat template -> token ids; truncation; which tokens are supervised.

Completion tokens are supervised, the end-of-turn token included; prompt tokens never. That is decided
by position and never by token id, since a pad token may equal eos. Whatever the template puts behind
the end of the turn (ChatML's newline) belongs to the next turn and is left out.
"""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from trimtab.data.encoding import ALTERED, CONTROL, HOLDS_CONTROL, OPENING, RefusedRowError, TextEncoding
from trimtab.data.groups import CompletionGroup
from trimtab.data.message import Answer, Prompt, Turns, answer_turn, strip_last_pair, tools_and_values
from trimtab.data.records import Message, ReadingSettings, Record
from trimtab.data.rows import RENDERED
from trimtab.data.rows import Dropped as Dropped
from trimtab.data.rows import TruncationSettings as TruncationSettings
from trimtab.data.rows import make_group as make_group
from trimtab.data.rows import tokens_of as tokens_of
from trimtab.data.rows import unusable as unusable
from trimtab.data.template_features import (
    FIXED_DAY,
    TemplateFeatures,
    asks_for_today,
    probe_features,
    turn_of,
    unusable_by_template,
    variables_of,
    with_date,
    without_turn_end,
)
from trimtab.data.templates import PROBE, remembered, render, with_default_template, with_generation_prompt
from trimtab.data.tokenizer import end_of_turn, special_texts
from trimtab.data.tokenizer import load_tokenizer as load_tokenizer
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "."
"""Stands where a group must have a completion and the method samples its own."""


class ChatFormat:
    """How a tokenizer renders prompts and completions. values: of the template's own variables. day: for templates
    that ask for today's date. remarks: what was found in the record that was encoded last, by name; encode_records
    counts them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, truncation: TruncationSettings | None = None) -> None:
        self.truncation = truncation or TruncationSettings()
        self.drops_refused = isinstance(truncation, ReadingSettings) and truncation.bad_rows == "drop"
        self.tokenizer = with_generation_prompt(with_default_template(tokenizer))
        self.has_template = bool(tokenizer.chat_template)
        self.values: JsonObject = dict(self.truncation.chat_template_kwargs)
        self.day = FIXED_DAY
        self.remarks: set[str] = set()
        self.opening = ""
        self.content = TextEncoding(self.tokenizer, self.truncation.control_tokens)
        self._apply = remembered(self._render, RENDERED)
        self.suffix = self._turn_suffix() if self.has_template else ""
        self.end_of_turn = end_of_turn(self.tokenizer, self._ids(self.suffix))
        if self.has_template:
            self.opening = self._opening((Message("user", PROBE),))
            self.content = TextEncoding(
                self.tokenizer, self.truncation.control_tokens, self._turn_tokens(), self.opening
            )
        self.ends = special_texts(self.tokenizer, self.stop_tokens)

    def with_values(self, **values: JsonValue) -> ChatFormat:
        """The same format with these values of the template's own variables."""
        other = copy.copy(self)
        other.values = self.values | values
        other._apply = remembered(other._render, RENDERED)
        return other

    def with_day(self, day: datetime.date) -> Self:
        """The same format with this date for templates that ask for today's."""
        other = copy.copy(self)
        other.day = day
        other._apply = remembered(other._render, RENDERED)
        return other

    def _turn_suffix(self) -> str:
        """What the template puts behind an assistant's text, end-of-turn token first."""
        head, probe, suffix = self._apply((Message("user", PROBE),), PROBE).rpartition(PROBE)
        if not probe or PROBE not in head:
            raise TrimtabError("the chat template does not show the assistant's text; trimtab can't train on it.")
        return suffix

    @cached_property
    def features(self) -> TemplateFeatures:
        """Which parts of a message besides its text the template writes: thoughts, tool calls, tools."""
        return probe_features(self._template_text) if self.has_template else TemplateFeatures()

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that the template reads and does not set itself."""
        return variables_of(self._template(None)) if self.has_template else frozenset()

    @property
    def unread_values(self) -> list[str]:
        """The names in the settings' chat_template_kwargs that the template does not read."""
        return sorted(set(self.truncation.chat_template_kwargs) - self.variables)

    @property
    def asks_for_today(self) -> bool:
        """Whether what it renders depends on the day."""
        return self.has_template and asks_for_today(self._template(None))

    def _turn_tokens(self) -> list[int]:
        """Of turns that say nothing: the tokens that mark turns are among them."""
        user, answer = {"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}
        # The last answer is left out: what a template writes into it need not mark a turn (Qwen3's "<think>").
        for turns in ([user, answer, user], [user]):
            try:
                return [*self._ids(self._template_text(turns, None)), self.end_of_turn]
            except RefusedRowError:
                continue
        return [self.end_of_turn]

    @property
    def stop_tokens(self) -> list[int]:
        """Generation ends at any of these: end of turn, and eos where it differs."""
        eos = self.tokenizer.eos_token_id
        return [self.end_of_turn] if eos in (None, self.end_of_turn) else [self.end_of_turn, int(eos)]

    def _ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Of a rendered text, or of a template's own; people's text must be marked before."""
        return self.content.ids(text, add_special_tokens) if text else []

    def _template(self, tools: list[JsonObject] | None) -> str:
        return str(self.tokenizer.get_chat_template(None, tools))

    def _template_text(
        self, turns: list[JsonObject], tools: list[JsonObject] | None, answered: bool = True, **values: JsonValue
    ) -> str:
        template = self._template(tools)
        # Passed on only where it is another: the tokenizer's own is what is saved.
        dated = {"chat_template": with_date(template, self.day)} if asks_for_today(template) else {}
        return render(self.tokenizer, turns, prompt=not answered, tools=tools, **(self.values | values), **dated)

    def _render(self, messages: Turns, answer: str | None = None) -> str:
        shown = messages if answer is None else (*messages, answer_turn(answer))
        turns = [turn_of(m, self.features) if m.extra else {"role": m.role, "content": m.content} for m in shown]
        turns = [self.content.marked_turn(turn) for turn in turns]
        tools, values = (json.loads(text) if text else None for text in tools_and_values(messages))
        tools, values = self.content.marked_within(tools), self.content.marked_within(values or {})
        return self._template_text(turns, tools, answer is not None, **values)

    def messages(self, prompt: Prompt, origin: str = "") -> Turns | None:
        """The prompt's turns; None for plain text with a tokenizer that has no template."""
        if isinstance(prompt, str):
            return (Message("user", prompt),) if self.has_template else None
        if not self.has_template:
            where = f"{origin}: " if origin else ""
            raise TrimtabError(
                f"{where}the prompt is a conversation, but the tokenizer has no chat template. "
                "Name one that has with --tokenizer (in a recipe: tokenizer), or give plain text "
                "(data.dialogue=text leaves Human/Assistant prompts as text)."
            )
        return prompt

    def plain_without_template(self, prompt: Prompt) -> Prompt:
        """The prompt; as plain text where it is one text with tools or values that no template is there to use."""
        alone = not self.has_template and len(prompt) == 1 and any(tools_and_values(prompt))
        return prompt[0].content if alone and isinstance(prompt[0], Message) else prompt

    def target_text(self, answer: str) -> str:
        """An answer as it is learned: without an end of turn of its own; without a template its content alone."""
        answer = without_turn_end(answer, self.ends)
        return answer.content if isinstance(answer, Answer) and not self.has_template else answer

    def prompt_ids(self, prompt: Prompt, origin: str = "") -> list[int]:
        """A prompt as it stands before the first token of its completion, when one is asked for."""
        prompt = self.plain_without_template(prompt)
        messages = self.messages(prompt, origin)
        if messages is None:
            assert isinstance(prompt, str)
            ids = self._ids(self.content.marked(prompt), add_special_tokens=True)
            # Tokenizers that close a text with eos would have the completion follow an end.
            while ids and ids[-1] == self.tokenizer.eos_token_id:
                ids.pop()
            return ids or [self._first_token()]
        return self._ids(self._apply(messages))

    def _first_token(self) -> int:
        """What stands before an empty prompt's completion."""
        bos = self.tokenizer.bos_token_id
        return int(self.end_of_turn if bos is None else bos)

    def completion_ids(self, prompt: Prompt, completion: str, prompt_ids: list[int]) -> list[int]:
        """A completion's tokens, end of turn included.

        Tokenized together with its prompt where the prompt's tokens come out as a prefix; else by
        itself, which is what a model that generates from the prompt would have to produce.
        """
        prompt, completion = self.plain_without_template(prompt), self.target_text(completion)
        messages = self.messages(prompt)
        if messages is not None:
            start, alone = self.split_answer(messages, completion)
            return self._completion_after(prompt_ids, self._ids(start + alone), alone)
        assert isinstance(prompt, str)
        # Together: a token may begin in the one and end in the other.
        whole, alone = self.content.marked(prompt + completion), self.content.marked(completion)
        ids = self._ids(whole, add_special_tokens=True) if prompt else self._ids(alone)
        while ids and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()
        return self._completion_after(prompt_ids if prompt else [], ids, alone)

    def _completion_after(self, prompt_ids: list[int], ids: list[int], alone: str) -> list[int]:
        """What follows a prompt among the tokens of the whole; the text's own where the whole begins otherwise."""
        n = len(prompt_ids)
        tail = ids[n:] if ids[:n] == prompt_ids else self._continuation(alone)
        return [*tail, self.end_of_turn]

    def _continuation(self, text: str) -> list[int]:
        """A text's tokens where it goes on from another: sentencepiece puts a space before the first only."""
        before, both = self._ids("\n"), self._ids("\n" + text)
        return both[len(before) :] if both[: len(before)] == before else self._ids(text)

    # ---- where a prompt ends

    def split_answer(self, messages: Turns, completion: str) -> tuple[str, str]:
        """The text before a completion and the completion's, as the template has them with the answer there."""
        start, whole = self._apply(messages), self._apply(messages, completion)
        if not whole.startswith(start):
            return self._split_by_opening(messages, completion, start, whole.removesuffix(self.suffix))
        whole = whole.removesuffix(self.suffix)
        # The answer's beginning may be the prompt's end, where the template opens answers.
        self._note_altered(completion, whole[max(0, len(start) - len(completion)) :])
        return start, whole[len(start) :]

    def _split_by_opening(self, messages: Turns, completion: str, start: str, whole: str) -> tuple[str, str]:
        """The same for a template that renders a prompt otherwise once its answer is there.

        Its generation prompt may open the answer ("<think>"). An answer that begins like that goes on from there;
        the prompt of another ends before the opening, as the template has it. Or an answer changes what stands
        further ahead (Mistral's system text is in the last user's turn, if that comes last): then the prompt is the
        one that is asked with.
        """
        head, opening = self._head(messages), self._opening(messages)
        opening_text, answer = opening.strip(), completion.lstrip()
        if opening_text and answer.startswith(opening_text) and not isinstance(completion, Answer):
            exact, rest = opening.lstrip(), answer.removeprefix(opening_text)
            blanks = opening[-1].isspace() and not answer.startswith(exact)
            return start, self.content.marked(rest.lstrip() if blanks else answer.removeprefix(exact))
        if opening_text and whole.startswith(head):
            self.remarks.add(f"{OPENING} {opening_text!r}")
            self._note_altered(completion, whole[len(head) :])
            return head, whole[len(head) :]
        asked = self.content.marked(messages[-1].content.strip())
        ends = [text.rpartition(asked)[2] if asked in text else None for text in (start, head)]
        if whole.startswith(head) and ends[0] is not None and ends[1] is not None and ends[1].startswith(ends[0]):
            tail = whole[len(head) - len(ends[1]) + len(ends[0]) :]
            self._note_altered(completion, tail)
            return start, tail
        raise RefusedRowError("the chat template renders a prompt otherwise once its answer is there.")

    def _head(self, messages: Turns) -> str:
        """What stands before an answer's own text."""
        return self._apply(messages, PROBE).rpartition(PROBE)[0]

    def _opening(self, messages: Turns) -> str:
        """What a generation prompt writes of the answer itself."""
        start, head = self._apply(messages), self._head(messages)
        return start[len(head) :] if start.startswith(head) else ""

    def _note_altered(self, completion: str, shown: str) -> None:
        """Notes an answer that the template does not show as it is written, but for white space."""
        # Of a message with thoughts or calls: what becomes of those is for template_features.py to say.
        written = self.content.marked(completion.content if isinstance(completion, Answer) else completion)
        if written not in shown and "".join(written.split()) not in "".join(shown.split()):
            self.remarks.add(ALTERED)

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens and those of each completion after it, nothing truncated."""
        prompt = self.plain_without_template(prompt)
        completions = [self.target_text(completion) for completion in completions]
        prompt_ids, messages = self.prompt_ids(prompt, origin), self.messages(prompt)
        if messages is None:
            return prompt_ids, [self.completion_ids(prompt, c, prompt_ids) for c in completions]
        split_texts = [self.split_answer(messages, completion) for completion in completions]
        # One prompt for all: the shorter, where it opens an answer that some of them do not have.
        shortest = min((start for start, _ in split_texts), key=len, default=None)
        if shortest is not None and shortest != self._apply(messages):
            prompt_ids = self._ids(shortest)
            split_texts = [(shortest, (start + text).removeprefix(shortest)) for start, text in split_texts]
        return prompt_ids, [self._completion_after(prompt_ids, self._ids(a + b), b) for a, b in split_texts]

    def read_ahead(self, records: Sequence[Record]) -> None:
        """Tokenizes all at once what these records will ask for; whom the template refuses, `encode` refuses."""
        if self.has_template:
            self.content.read_ahead(text for record in records for text in self._renderings(record))

    def _renderings(self, record: Record) -> Iterator[str]:
        messages = self.messages(record.prompt) or ()
        with suppress(RefusedRowError):
            yield self._apply(messages)
            for answer in map(self.target_text, record.completions):
                yield self._apply(messages, answer).removesuffix(self.suffix)

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped:
        """A record as token ids, truncated; or why it can't be used."""
        if record.condition is not None:
            return self.with_values(target_score=record.condition).encode(replace(record, condition=None), index)
        self.remarks.clear()
        if problem := unusable(record):
            return Dropped(problem, record.origin)
        if any(not self.target_text(completion).strip() for completion in record.completions):
            return Dropped("empty completion", record.origin)
        if self.has_template and isinstance(record.prompt, str) and not record.prompt.strip():
            return Dropped("empty prompt", record.origin)
        if problem := unusable_by_template(record, self.features):
            return Dropped(problem, record.origin)
        prompts = record.prompts or (record.prompt,)
        self.remarks |= self.content.remarks(prompts, [self.target_text(answer) for answer in record.completions])
        if self.truncation.control_tokens == "drop" and self.remarks & {*CONTROL.values()}:
            return Dropped(HOLDS_CONTROL, record.origin)
        while True:
            try:
                before, completions = tokens_of(self, record, prompts)
            except RefusedRowError as error:
                if self.drops_refused:
                    return Dropped(str(error), record.origin)
                advice = ". data.bad_rows=drop leaves such rows out."
                raise RefusedRowError(f"{record.origin}: {error}".rstrip(".") + advice) from None
            except TrimtabError as error:  # a template's limits know no row
                raise TrimtabError(f"{record.origin}: {str(error).removeprefix(f'{record.origin}: ')}") from None
            completions = completions or [[*self._continuation(PLACEHOLDER), self.end_of_turn]]
            room = self.truncation.max_length - max(map(len, before))
            if room >= min(self.truncation.min_completion_length, max(map(len, completions))):
                break
            shorter = [None if isinstance(prompt, str) else strip_last_pair(prompt) for prompt in prompts]
            if None in shorter:
                return Dropped("prompt too long", record.origin)
            prompts = tuple(prompt for prompt in shorter if prompt is not None)
        cut = [c[:room] for c in completions]
        return make_group(record, index, before, cut, [len(c) > room for c in completions])
