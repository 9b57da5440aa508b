"""Chat template -> token ids; truncation; which tokens are supervised.

Completion tokens are supervised, the end-of-turn token included; prompt tokens never. That is decided
by position and never by token id, since a pad token may equal eos. Whatever the template puts behind
the end of the turn (ChatML's newline) belongs to the next turn and is left out.
"""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from trimtab.data.beside import (
    FIXED_DAY,
    Powers,
    asks_for_today,
    lost,
    on_day,
    powers_of,
    turn_of,
    variables_of,
    without_end,
)
from trimtab.data.fields import BadRowError, disorder, template_values_of
from trimtab.data.groups import CompletionGroup, shared_beginning
from trimtab.data.message import Answer, answer_turn, beside, like
from trimtab.data.records import Message, Record
from trimtab.data.settings import TOKENS, Settings
from trimtab.data.tokenizer import load_tokenizer as load_tokenizer
from trimtab.errors import TrimtabError
from trimtab.notices import warn

PROBE = "trimtab probe"


class TruncationSettings(Settings):
    """Truncation keeps the instruction: completions are cut at the end, prompts never."""

    max_length: int = Field(1024, gt=1, le=TOKENS)
    """Tokens of a prompt with one completion."""
    min_completion_length: int = Field(32, gt=0, le=TOKENS)
    """A prompt that leaves fewer tokens than this (or than the completion has) loses its oldest
    turns, and its row is dropped when none is left to lose."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Values of the chat template's own variables, such as {enable_thinking: false}; a row's column of this name
    comes before them."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without values for the template what it was before it could have any: folders are claimed by it."""
        found: dict[str, Any] = dump(self)
        if not found.get("chat_template_kwargs", True):
            del found["chat_template_kwargs"]
        return found

    @field_validator("chat_template_kwargs")
    @classmethod
    def _own(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            template_values_of(value)
        except BadRowError as error:
            raise ValueError(str(error).removeprefix("column ")) from None
        return value


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was not used, and why."""

    reason: str
    origin: str


def unusable(record: Record) -> str | None:
    """Why a record can't be used whatever the tokenizer; None where it can."""
    if any(not completion.strip() for completion in record.completions):
        return "empty completion"
    return None if isinstance(record.prompt, str) else disorder(record.prompt)


def strip_last_pair(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The conversation without its oldest exchange, system turn kept; None when nothing may go."""
    system = messages[:1] if messages[0].role == "system" else ()
    rest = messages[len(system) :]
    # The next user turn is where a shorter conversation can start.
    for i, message in enumerate(rest[1:], start=1):
        if message.role == "user":
            return like(messages, system + rest[i:])
    return None


class ChatFormat:
    """How a tokenizer renders prompts and completions. values: of the template's own variables. day: for templates
    that ask for today's date."""

    def __init__(self, tokenizer: Any, truncation: TruncationSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.truncation = truncation or TruncationSettings()
        self.has_template = bool(tokenizer.chat_template)
        self.values: dict[str, Any] = dict(self.truncation.chat_template_kwargs)
        self.day = FIXED_DAY
        # A prompt is rendered once for all its completions.
        self._apply = lru_cache(maxsize=4)(self._render)
        self.suffix = self._turn_suffix() if self.has_template else ""
        self.end_of_turn = self._end_of_turn()
        self.ends = self._ends()

    def under(self, **values: Any) -> ChatFormat:
        """The same format with these values of the template's own variables."""
        other = copy.copy(self)
        other.values = self.values | values
        other._apply = lru_cache(maxsize=4)(other._render)
        return other

    def on(self, day: datetime.date) -> Self:
        """The same format with this date for templates that ask for today's."""
        other = copy.copy(self)
        other.day = day
        other._apply = lru_cache(maxsize=4)(other._render)
        return other

    def _turn_suffix(self) -> str:
        """What the template puts behind an assistant's text, end-of-turn token first."""
        text = self._apply((Message("user", PROBE),), PROBE)
        head, found, suffix = text.rpartition(PROBE)
        if not found or PROBE not in head:
            raise TrimtabError("the chat template does not show the assistant's text; trimtab can't train on it.")
        return suffix

    def _end_of_turn(self) -> int:
        """The token that ends an assistant's turn: the first special one of the suffix, else eos."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token in self._ids(self.suffix):
            if token in special:
                return int(token)
        if self.tokenizer.eos_token_id is None:
            raise TrimtabError("the tokenizer has no eos token, and its template none that ends a turn.")
        return int(self.tokenizer.eos_token_id)

    def _ends(self) -> tuple[str, ...]:
        """The tokens, as text, that an answer may hold at its end and that are put there anyway."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        texts = self.tokenizer.convert_ids_to_tokens([token for token in self.stop_tokens if token in special])
        return tuple(sorted(set(texts), key=len, reverse=True))

    @cached_property
    def powers(self) -> Powers:
        """What the template writes of that which stands beside a text."""
        return powers_of(self._template_text) if self.has_template else Powers()

    @cached_property
    def variables(self) -> frozenset[str]:
        """What the template reads."""
        return variables_of(self._template(None)) if self.has_template else frozenset()

    @property
    def unread_values(self) -> list[str]:
        """Of the settings' chat_template_kwargs what the template does not read."""
        return sorted(set(self.truncation.chat_template_kwargs) - self.variables)

    @property
    def asks_for_today(self) -> bool:
        """Whether what it renders depends on the day."""
        return self.has_template and asks_for_today(self._template(None))

    @property
    def stop_tokens(self) -> list[int]:
        """Generation ends at any of these: end of turn, and eos where it differs."""
        eos = self.tokenizer.eos_token_id
        return [self.end_of_turn] if eos in (None, self.end_of_turn) else [self.end_of_turn, int(eos)]

    def _ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]) if text else []

    def _template(self, tools: Any) -> str:
        text: str = self.tokenizer.get_chat_template(None, tools)
        return text

    def _template_text(self, turns: list[dict[str, Any]], tools: Any, answered: bool = True, **values: Any) -> str:
        template = self._template(tools)
        # Passed on only where it is another: the tokenizer's own is what is saved.
        dated = {"chat_template": on_day(template, self.day)} if asks_for_today(template) else {}
        text: str = self.tokenizer.apply_chat_template(
            turns, tools=tools, tokenize=False, add_generation_prompt=not answered,
            **(self.values | values), **dated,
        )  # fmt: skip
        return text

    def _render(self, messages: tuple[Message, ...], answer: str | None = None) -> str:
        given = messages if answer is None else (*messages, answer_turn(answer))
        turns = [turn_of(m, self.powers) if m.extra else {"role": m.role, "content": m.content} for m in given]
        tools, values = (json.loads(text) if text else None for text in beside(messages))
        try:
            return self._template_text(turns, tools, answer is not None, **(values or {}))
        except Exception as error:  # templates raise whatever they like
            roles = " → ".join(turn["role"] for turn in turns)
            raise TrimtabError(f"the chat template refuses a conversation ({roles}): {error}") from None

    def messages(self, prompt: str | tuple[Message, ...], origin: str = "") -> tuple[Message, ...] | None:
        """The prompt's turns; None for plain text with a tokenizer that has no template."""
        if isinstance(prompt, str):
            return (Message("user", prompt),) if self.has_template else None
        if not self.has_template:
            raise TrimtabError(
                f"{origin}: the prompt is a conversation, but the tokenizer has no chat template. "
                "Name one that has with --tokenizer (in a recipe: tokenizer), or give plain text "
                "(data.dialogue=text leaves Human/Assistant prompts as text)."
            )
        return prompt

    def bare(self, prompt: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        """Without a template a text stays one, whatever stands beside it."""
        alone = not self.has_template and len(prompt) == 1 and any(beside(prompt))
        return prompt[0].content if alone and isinstance(prompt[0], Message) else prompt

    def finished(self, answer: str) -> str:
        """An answer as it is learned: without an end of turn of its own; without a template its content alone."""
        answer = without_end(answer, self.ends)
        return answer.content if isinstance(answer, Answer) and not self.has_template else answer

    def prompt_ids(self, prompt: str | tuple[Message, ...], origin: str = "") -> list[int]:
        """A prompt as it stands before the first token of its completion."""
        prompt = self.bare(prompt)
        messages = self.messages(prompt, origin)
        if messages is None:
            assert isinstance(prompt, str)
            ids = self._ids(prompt, add_special_tokens=True)
            # Tokenizers that close a text with eos would have the completion follow an end.
            while ids and ids[-1] == self.tokenizer.eos_token_id:
                ids.pop()
            return ids or [self._first_token()]
        return self._ids(self._apply(messages))

    def _first_token(self) -> int:
        """What stands before an empty prompt's completion."""
        bos = self.tokenizer.bos_token_id
        return int(self.end_of_turn if bos is None else bos)

    def completion_ids(
        self, prompt: str | tuple[Message, ...], completion: str, prompt_ids: list[int]
    ) -> list[int]:
        """A completion's tokens, end of turn included.

        Tokenized together with its prompt where the prompt's tokens come out as a prefix; else by
        itself, which is what a model that generates from the prompt would have to produce.
        """
        prompt, completion = self.bare(prompt), self.finished(completion)
        messages = self.messages(prompt)
        if messages is None:
            assert isinstance(prompt, str)
            whole, alone = prompt + completion, completion
            ids = self._ids(whole, add_special_tokens=True) if prompt else self._ids(alone)
        else:
            start, whole = self._apply(messages), self._apply(messages, completion)
            if not whole.startswith(start):
                raise TrimtabError("the chat template renders a prompt otherwise once its answer is there.")
            whole = whole.removesuffix(self.suffix)
            alone = whole[len(start) :]
            ids = self._ids(whole)
        while ids and messages is None and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()
        n = len(prompt_ids)
        if not prompt and messages is None:
            tail = ids
        else:
            tail = ids[n:] if ids[:n] == prompt_ids else self._continuation(alone)
        return [*tail, self.end_of_turn]

    def _continuation(self, text: str) -> list[int]:
        """A text's tokens where it goes on from another: sentencepiece puts a space before the first only."""
        before, both = self._ids("\n"), self._ids("\n" + text)
        return both[len(before) :] if both[: len(before)] == before else self._ids(text)

    def tokens(
        self, prompt: str | tuple[Message, ...], completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens and those of each completion after it, nothing truncated."""
        prompt_ids = self.prompt_ids(prompt, origin)
        return prompt_ids, [self.completion_ids(prompt, c, prompt_ids) for c in completions]

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped:
        """A record as token ids, truncated; or why it can't be used."""
        if record.condition is not None:
            return self.under(target_score=record.condition).encode(replace(record, condition=None), index)
        if problem := unusable(record):
            return Dropped(problem, record.origin)
        if any(not self.finished(completion).strip() for completion in record.completions):
            return Dropped("empty completion", record.origin)
        if self.has_template and isinstance(record.prompt, str) and not record.prompt.strip():
            return Dropped("empty prompt", record.origin)
        if problem := lost(record, self.powers):
            return Dropped(problem, record.origin)
        prompts = record.prompts or (record.prompt,)
        while True:
            try:
                before, completions = tokens_of(self, record, prompts)
            except TrimtabError as error:  # the template's refusal knows no row
                raise TrimtabError(f"{record.origin}: {str(error).removeprefix(f'{record.origin}: ')}") from None
            room = self.truncation.max_length - max(map(len, before))
            if room >= min(self.truncation.min_completion_length, max(map(len, completions))):
                break
            shorter = [None if isinstance(prompt, str) else strip_last_pair(prompt) for prompt in prompts]
            if None in shorter:
                return Dropped("prompt too long", record.origin)
            prompts = tuple(prompt for prompt in shorter if prompt is not None)
        cut = [c[:room] for c in completions]
        return make_group(record, index, before, cut, [len(c) > room for c in completions])


def tokens_of(
    form: Any, record: Record, prompts: Sequence[str | tuple[Message, ...]]
) -> tuple[list[list[int]], list[list[int]]]:
    """A record's prompts, one or one for each completion, and its completions as tokens, nothing truncated."""
    if len(prompts) == 1:
        prompt, completions = form.tokens(prompts[0], record.completions, record.origin)
        return [prompt], completions
    pairs = zip(prompts, record.completions, strict=True)
    each = [form.tokens(prompt, [completion], record.origin) for prompt, completion in pairs]
    return [prompt for prompt, _ in each], [completion for _, [completion] in each]


def make_group(
    record: Record,
    index: int,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    truncated: Sequence[bool],
) -> CompletionGroup | Dropped:
    """A record's tokens as a group; dropped where all its completions have come out the same.

    prompts: one, or one for each completion; what these have in common is computed once for all.
    """
    rows = tuple(tuple(c) for c in completions)
    if len(rows) >= 2 and len(set(rows)) == 1:
        cause = "after truncation" if any(truncated) else "as tokens"
        reason = "completions" if len(set(record.completions)) == 1 else cause
        return Dropped(f"identical {reason}", record.origin)
    given: tuple[tuple[int, ...], ...] = ()
    shared = len(prompts[0])
    if len(prompts) > 1:
        if any(truncated):  # what is left neither keeps to a length nor fails to
            return Dropped("cut completion under a length instruction", record.origin)
        shared = shared_beginning(prompts)
        given = tuple(tuple(prompt[shared:]) for prompt in prompts)
    prompt = tuple(prompts[0][:shared])
    return CompletionGroup(prompt, rows, index, tuple(truncated), record.scores, record.labels, given)


def agree_on_special_tokens(chat: ChatFormat, model: Any) -> None:
    """Makes tokenizer, config and generation config agree on what ends a turn, before they are saved.

    A base model's eos is often <|endoftext|> while its template ends turns otherwise: a model saved
    like that never stops. eos becomes the end-of-turn token; generation stops at the old one too.
    """
    tokenizer, entries = chat.tokenizer, int(model.get_input_embeddings().weight.shape[0])
    stops = [token for token in chat.stop_tokens if token < entries]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end_of_turn)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= entries:
        warn(
            f"the pad token {tokenizer.pad_token!r} is token {tokenizer.pad_token_id}, but the model has {entries} "
            f"embeddings: {tokenizer.eos_token!r} is what the saved model is padded with.",
        )
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    known = model.generation_config.eos_token_id
    known = known if isinstance(known, list) else [known]
    stops += [t for t in known if isinstance(t, int) and 0 <= t < entries and t not in stops]
    model.config.eos_token_id = chat.end_of_turn
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
