"""A row on its way to tokens: how long it may get, why it is not used, and its tokens as a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from trimtab.data.encoding import ControlTokens
from trimtab.data.fields import BadRowError, template_values_of, turn_order_problem
from trimtab.data.message import Prompt
from trimtab.data.records import Record
from trimtab.data.settings import TOKENS, Settings
from trimtab.json_types import JsonObject

if TYPE_CHECKING:
    from trimtab.data.groups import CompletionGroup

READ_AHEAD = 128
"""Rows that are rendered and tokenized at once."""
RENDERED = 8 * READ_AHEAD
"""Renderings that are remembered: of a prompt for all its completions, and of rows that are read ahead."""


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
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    """Values of the chat template's own variables, such as {enable_thinking: false}; a row's column of this name
    comes before them."""

    @model_serializer(mode="wrap")
    def _omit_defaults(self, dump: SerializerFunctionWrapHandler) -> JsonObject:
        """Without values for the template, and with the usual reading, what it was before there were any others:
        folders are claimed by it."""
        value: JsonObject = dump(self)
        if not value.get("chat_template_kwargs", True):
            del value["chat_template_kwargs"]
        if value.get("control_tokens") == "text":
            del value["control_tokens"]
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_chat_template_kwargs(cls, value: JsonObject) -> JsonObject:
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
    return None if isinstance(record.prompt, str) else turn_order_problem(record.prompt)


class Tokenizing(Protocol):
    """What makes tokens of a prompt and its completions: data/chat.py's ChatFormat, or a reward model's format."""

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens and those of each completion after it, nothing truncated."""


def tokens_of(
    chat: Tokenizing, record: Record, prompts: Sequence[Prompt]
) -> tuple[list[list[int]], list[list[int]]]:
    """A record's prompts, one or one for each completion, and its completions as tokens, nothing truncated."""
    if len(prompts) == 1:
        prompt, completions = chat.tokens(prompts[0], record.completions, record.origin)
        return [prompt], completions
    pairs = zip(prompts, record.completions, strict=True)
    each = [chat.tokens(prompt, [completion], record.origin) for prompt, completion in pairs]
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
    from trimtab.data.groups import CompletionGroup, common_prefix_length  # with PyTorch; settings are read without

    rows = tuple(tuple(c) for c in completions)
    if len(rows) >= 2 and len(set(rows)) == 1:
        cause = "after truncation" if any(truncated) else "as tokens"
        reason = "completions" if len(set(record.completions)) == 1 else cause
        return Dropped(f"identical {reason}", record.origin)
    suffixes: tuple[tuple[int, ...], ...] = ()
    shared = len(prompts[0])
    if len(prompts) > 1:
        if any(truncated):  # what is left neither keeps to a length nor fails to
            return Dropped("cut completion under a length instruction", record.origin)
        shared = common_prefix_length(prompts)
        suffixes = tuple(tuple(prompt[shared:]) for prompt in prompts)
    prompt = tuple(prompts[0][:shared])
    return CompletionGroup(prompt, rows, index, tuple(truncated), record.scores, record.labels, suffixes)
