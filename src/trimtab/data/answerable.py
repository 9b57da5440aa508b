"""Rows whose prompts models answer, in evaluation: those that every chat template takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.data.chat import ChatFormat
from trimtab.data.encoding import HOLDS_CONTROL, RefusedRowError, texts_of
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.notices import say


@dataclass(frozen=True)
class AnswerableRows:
    """The rows that models can answer, their prompts' tokens in the first format, and how many rows were dropped
    for which reason."""

    records: list[Record]
    prompts: list[list[int]]
    dropped: dict[str, int]

    def say_dropped(self, what: str) -> None:
        """Says in one line how many rows of `what` were dropped and why, where any were."""
        if self.dropped:
            count = len(self.records) + sum(self.dropped.values())
            lost = ", ".join(f"{n} × {reason}" for reason, n in self.dropped.items())
            say(f"{what}: {len(self.records)} of {count} rows used; dropped: {lost}")


def answerable_rows(
    records: Sequence[Record], chats: Sequence[ChatFormat], reads_answers: bool = True
) -> AnswerableRows:
    """Keeps the rows whose prompts every format can render. The first format also reads the rows' own best answers,
    whose lengths are compared with. A row that a template refuses is dropped where data.bad_rows is drop; else
    TrimtabError names it."""
    kept: list[Record] = []
    prompts: list[list[int]] = []
    dropped: Counter[str] = Counter()
    for record in records:
        try:
            prompt_ids = _prompt_ids(record, chats, reads_answers)
        except RefusedRowError as error:
            if not chats[0].drops_refused:
                advice = "data.bad_rows=drop leaves such rows out."
                raise RefusedRowError(f"{record.origin}: {str(error).rstrip('.')}. {advice}") from None
            dropped[str(error)] += 1
            continue
        except TrimtabError as error:  # a template's limits know no row
            raise TrimtabError(f"{record.origin}: {str(error).removeprefix(f'{record.origin}: ')}") from None
        if isinstance(prompt_ids, str):
            dropped[prompt_ids] += 1
            continue
        kept.append(record)
        prompts.append(prompt_ids)
    if records and not kept:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in dropped.items())
        raise TrimtabError(f"none of the {len(records)} rows can be answered: {reasons}.")
    return AnswerableRows(kept, prompts, dict(sorted(dropped.items())))


def _prompt_ids(record: Record, chats: Sequence[ChatFormat], reads_answers: bool) -> list[int] | str:
    """The first format's tokens of the prompt, or why the row is left out."""
    first = chats[0]
    answers = record.completions[:1] if reads_answers and not record.is_unpaired else ()
    if first.truncation.control_tokens == "drop":
        texts = [*texts_of(record.prompt), *answers]
        if any(chat.content.has_control(text) for chat in chats for text in texts):
            return HOLDS_CONTROL
    ids = [chat.prompt_ids(record.prompt, record.origin) for chat in chats]
    for answer in answers:
        first.completion_ids(record.prompt, answer, ids[0])
    return ids[0]


def renderable_prompts(records: Sequence[Record], chat: ChatFormat) -> Iterator[tuple[Record, list[int]]]:
    """Yields each row with its prompt's tokens; rows that the template refuses are left out."""
    for record in records:
        try:
            yield record, chat.prompt_ids(record.prompt, record.origin)
        except RefusedRowError:
            continue
