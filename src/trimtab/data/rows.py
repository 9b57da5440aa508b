"""A row on its way to tokens: how long it may get, why it is not used, and its tokens as a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from trimtab.data.encoding import ControlTokens
from trimtab.data.fields import BadRowError, disorder, template_values_of
from trimtab.data.groups import CompletionGroup, shared_beginning
from trimtab.data.records import Message, Record
from trimtab.data.settings import TOKENS, Settings


class TruncationSettings(Settings):
    """Truncation keeps the instruction: completions are cut at the end, prompts never."""

    max_length: int = Field(1024, gt=1, le=TOKENS)
    """Tokens of a prompt with one completion."""
    min_completion_length: int = Field(32, gt=0, le=TOKENS)
    """A prompt that leaves fewer tokens than this (or than the completion has) loses its oldest
    turns, and its row is dropped when none is left to lose."""
    control_tokens: ControlTokens = "text"
    """Control tokens in people's text (special tokens, and others that mark turns): read as the text that they are,
    as the tokens, or their rows dropped; or a list of those that are meant as tokens, the others being text."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Values of the chat template's own variables, such as {enable_thinking: false}; a row's column of this name
    comes before them."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without values for the template, and with the usual reading, what it was before there were any others:
        folders are claimed by it."""
        found: dict[str, Any] = dump(self)
        if not found.get("chat_template_kwargs", True):
            del found["chat_template_kwargs"]
        if found.get("control_tokens") == "text":
            del found["control_tokens"]
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
