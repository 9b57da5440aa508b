"""What the page sends, checked: nothing unknown, nothing without bounds."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trimtab.data.vote_file import Verdict

REASONS = ("correct", "shorter", "clearer", "safe", "format")
"""What a person may tick."""
LARGEST = 2**17
"""Bytes of what is sent at most."""
WINDOW = 8
"""Items that the page is given at once at most."""
DAY = 24 * 3600 * 1000

Body = TypeVar("Body", bound=BaseModel)


def _person(name: str) -> str:
    """One person, one spelling: NFC, single spaces."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or not name.isprintable():
        raise ValueError("a name has letters, and nothing that cannot be seen")
    return name


Person = Annotated[str, Field(max_length=60), AfterValidator(_person)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
"""Made by the page, from 128 random bits."""
ItemId = Annotated[str, Field(min_length=1, max_length=128)]


class Sent(BaseModel):
    """Of the types that are named, and of no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ItemsAsked(Sent):
    """held: items that the page shows or has votes of that were not sent yet."""

    person: Person
    count: int = Field(WINDOW, ge=0, le=WINDOW)
    held: list[ItemId] = Field([], max_length=1000)


class VoteCast(Sent):
    vote_id: Id
    item: ItemId
    person: Person
    repeated: bool
    verdict: Verdict
    reasons: list[Literal["correct", "shorter", "clearer", "safe", "format"]] = Field([], max_length=len(REASONS))
    note: Annotated[str, Field(max_length=2000)] = ""
    milliseconds: int | None = Field(None, ge=0, le=DAY)


class UndoAsked(Sent):
    person: Person
    vote_id: Id
    undo_id: Id


class OwnPrompt(Sent):
    """A prompt of one's own. ask_id: the same however often it is sent."""

    person: Person
    ask_id: Id
    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]


class OwnAsked(Sent):
    person: Person
    ask_id: Id


class BodyError(ValueError):
    """What was sent is none of it."""


def read_body(kind: type[Body], body: bytes) -> Body:
    """BodyError, with what is wrong in a line that repeats nothing of what was sent."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BodyError(f"{where}: {first['msg']}" if where else first["msg"]) from None
