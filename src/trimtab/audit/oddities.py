"""What looks wrong in records without being an error: odd characters, contradictions, prompts that splits share.

Everything here looks at text alone; findings.py puts it together.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from trimtab.data.message import tools_and_values
from trimtab.data.records import Record

ODD_CHARACTERS = {
    "replacement character (a letter was lost)": re.compile("\ufffd"),
    "UTF-8 read as Latin-1 (“Ã©” for “é”)": re.compile("Ã[\u0080-\u00bf©¨¡³]|â€|Â[\u00a0-\u00bf]"),
    "control characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "carriage returns": re.compile("\r"),
    "zero-width characters": re.compile("[\u200b\u2060\ufeff]"),
    "marks of writing direction": re.compile("[\u202a-\u202e\u2066-\u2069]"),
    "private-use characters": re.compile("[\ue000-\uf8ff]"),
    "tokens of a chat template": re.compile(r"<\|[a-zA-Z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"),
}
"""Tokens of a chat template in a text are read as text (data.control_tokens). Other programs read them as the real
ones: the turn would end where the text says so."""
EXAMPLES = 5


class Occurrences(BaseModel):
    """How many rows something was found in, and where the first few are: "train.jsonl:17"."""

    model_config = ConfigDict(extra="forbid")

    count: int = 0
    examples: list[str] = []

    def add(self, example: str) -> None:
        """Counts a row; the first five are kept by name."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


class SharedPrompts(BaseModel):
    """Prompts of one split that are in another too. exact: the same text. alike: the same but for case,
    punctuation and white space; exact ones included. Counted in rows of `second`."""

    model_config = ConfigDict(extra="forbid")

    first: str
    second: str
    rows: int
    exact: int
    alike: Occurrences


def text_of_prompt(record: Record) -> str:
    """All turns of a prompt as one text."""
    if isinstance(record.prompt, str):
        return record.prompt
    turns = "\n".join(f"{message.role}: {message.text}" for message in record.prompt)
    return "\n".join(part for part in (*tools_and_values(record.prompt), turns) if part)


def odd_characters(records: Sequence[Record]) -> dict[str, Occurrences]:
    """Rows that hold each kind, in the prompt or in a completion; kinds that no row holds are left out."""
    out: dict[str, Occurrences] = {}
    for record in records:
        texts = (text_of_prompt(record), *record.completions)
        for name, pattern in ODD_CHARACTERS.items():
            if any(pattern.search(text) for text in texts):
                out.setdefault(name, Occurrences()).add(record.origin)
    return out


def conflicts(records: Sequence[Record]) -> Occurrences:
    """The same two completions of the same prompt preferred both ways, or the same completion labelled both."""
    origins_of: dict[tuple[object, ...], dict[object, str]] = defaultdict(dict)
    for record in records:
        if record.is_pair and record.completions[0] != record.completions[-1]:
            ends = (record.completions[0], record.completions[-1])
            origins_of[(record.prompt, *sorted(ends))].setdefault(ends, record.origin)
        elif record.is_unpaired:
            origins_of[(record.prompt, record.completions)].setdefault(record.labels, record.origin)
    out = Occurrences()
    for origins in origins_of.values():
        if len(origins) > 1:
            out.add(" against ".join(origins.values()))
    return out


def alike_key(record: Record) -> str:
    """A prompt without case, punctuation and white space."""
    prompt = record.prompt
    # A conversation of one turn asks what the same text alone does.
    if not isinstance(prompt, str) and len(prompt) == 1 and not any(tools_and_values(prompt)):
        text = prompt[0].text
    else:
        text = text_of_prompt(record)
    return " ".join(re.findall(r"\w+", text.casefold()))


def shared_prompts(splits: Mapping[str, Sequence[Record]]) -> list[SharedPrompts]:
    """The prompts that every two splits with rows have in common, in the order of the splits."""
    names = [name for name, records in splits.items() if records]
    out = []
    for i, first in enumerate(names):
        of_first = {alike_key(record): record for record in reversed(splits[first])}
        exactly_of_first = {record.prompt for record in splits[first]}
        for second in names[i + 1 :]:
            alike, exact = Occurrences(), 0
            for record in splits[second]:
                exact += record.prompt in exactly_of_first
                if (key := alike_key(record)) in of_first:
                    alike.add(f"{of_first[key].origin} and {record.origin}")
            rows = len(splits[second])
            out.append(SharedPrompts(first=first, second=second, rows=rows, exact=exact, alike=alike))
    return out


def matched_by_label(records: Sequence[Record], seed: int = 0) -> list[tuple[str, str]]:
    """Desirable and undesirable completions put side by side at random, to be compared as pairs are.

    Where a label says nothing of the text, either of two such completions is as likely to hold a form as the
    other, whatever their prompts: the sign test of markers.py holds for them as it does for pairs.
    """
    sides: dict[bool, list[str]] = {True: [], False: []}
    for record in records:
        if record.is_unpaired and record.labels:
            sides[record.labels[0]].append(record.completions[0])
    for side in sides.values():
        random.Random(seed).shuffle(side)
    return list(zip(sides[True], sides[False], strict=False))
