"""Rows of several sources, put beside each other by the prompts' ids or texts; and what could not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from trimtab.data.message import tools_and_values
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.formats import listed
from trimtab.json_types import JsonObject
from trimtab.readers.rows import MethodRows, Row
from trimtab.readers.values import more_than_text, plain

By = Callable[[Row], str | None]
Groups = Mapping[str, Sequence[Row]]
SHOWN = 3
"""Examples in a message."""


@dataclass(frozen=True)
class Joined:
    """The prompts that every source has, in the order of the first.

    rows: of each source in turn, by the prompt's key: one, or several samples. by: what they were joined by.
    left_out: prompts that some source lacks, by source. told: what a reader must know of the join.
    """

    keys: list[str]
    prompts: dict[str, str]
    rows: list[Groups]
    by: str
    left_out: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @cached_property
    def asked(self) -> dict[str, Record]:
        """Each prompt with all that some source knows of it: its turns, and the columns of its rows, of which those
        of the first source that has one count."""
        return {key: self._asked(key) for key in self.keys}

    def _asked(self, key: str) -> Record:
        rows = [row for group in self.rows for row in group[key]]
        turns = list(dict.fromkeys(row.turns for row in rows if row.turns))
        columns: JsonObject = {}
        for row in rows:
            columns = {**row.columns, **columns}
        # Of several conversations with the same last turn none is known to be the one.
        return Record(
            turns[0] if len(turns) == 1 else self.prompts[key], (), origin=f"prompt {key}", columns=columns
        )


def by_id(row: Row) -> str | None:
    """A row's id."""
    return row.key


def by_text(row: Row) -> str | None:
    """The text of a row's prompt, of a conversation its last turn."""
    return plain(row.prompt) if row.prompt else None


def by_conversation(row: Row) -> str | None:
    """All that a row's prompt says; of a user's only turn the text."""
    if not (turns := more_than_text(row.turns) if row.turns else ()):
        return by_text(row)
    said = [f"{turn.role}: {plain(turn.text)}" for turn in turns]
    return "\n".join([*said, *filter(None, tools_and_values(turns))])


def join(methods: Sequence[MethodRows]) -> Joined:
    """Joins by ids where all rows have them and no id stands for two prompts; else by what the prompts say: by
    whole conversations where every source has them, by their last turns where one has texts alone. A single source
    needs neither. TrimtabError where sources can't be joined or share no prompt."""
    said, lacking_turns = _said_by(methods)
    ids, texts = _groups(methods, by_id), _groups(methods, said)
    told: list[str] = []
    if ids is not None and (clash := _contradiction(methods, ids, said)):
        if texts is None:
            raise TrimtabError(f"{clash} Give files whose ids are of the same prompts, or --map id=COLUMN.")
        told.append(f"{clash} Joined by the texts.")
        ids = None
    if ids is not None and texts is not None and len(_shared(ids)) < len(_shared(texts)):
        ids = None  # ids of each file's own, beside texts that all share
    groups, by = (ids, "id") if ids is not None else (texts, "text")
    if groups is None and len(methods) == 1:
        groups, by = [{str(i): [row] for i, row in enumerate(methods[0].rows)}], "row"
    if groups is None:
        lacking = listed([f"{m.name} ({_what(m)})" for m in methods])
        raise TrimtabError(
            f"nothing to join rows by: {lacking}. Rows need an id in all, or a prompt in all (--map id=COLUMN)."
        )
    if by == "text" and lacking_turns:
        told.append(f"{lacking_turns}: prompts are texts alone, so conversations are joined by their last turn")
    keys = _shared(groups)
    if not keys:
        examples = "; ".join(f"{m.name} has {_examples(g)}" for m, g in zip(methods, groups, strict=True))
        raise TrimtabError(f"the sources share no prompt, joined by {by}: {examples}.")
    left_out = {m.name: n for m, g in zip(methods, groups, strict=True) if (n := len(g.keys() - set(keys)))}
    told += [
        f"{name}: {n} of {len(groups[i])} prompts are not in every source (joined by {by}) and are left out"
        for i, m in enumerate(methods)
        if (n := left_out.get(name := m.name, 0))
    ]
    told += [line for m, g in zip(methods, groups, strict=True) if (line := _repeated(m.name, g))]
    return Joined(keys, _prompts(keys, groups), groups, by, left_out, told)


def _said_by(methods: Sequence[MethodRows]) -> tuple[By, str]:
    """By what prompts are told apart; and the sources that have texts alone where others have conversations."""
    lacking = [method.name for method in methods if not method.knows_turns]
    some = any(row.turns for method in methods for row in method.rows)
    return (by_text, ", ".join(lacking)) if lacking and some else (by_conversation, "")


def _groups(methods: Sequence[MethodRows], by: By) -> list[Groups] | None:
    """Each source's rows by key; None where a row has none."""
    groups: list[Groups] = []
    for method in methods:
        group: dict[str, list[Row]] = {}
        for row in method.rows:
            key = by(row)
            if key is None:
                return None
            group.setdefault(key, []).append(row)
        groups.append(group)
    return groups


def _shared(groups: Sequence[Groups]) -> list[str]:
    common = set(groups[0]).intersection(*groups[1:])
    return [key for key in groups[0] if key in common]


def _contradiction(methods: Sequence[MethodRows], groups: Sequence[Groups], said: By) -> str | None:
    """Where an id stands for two prompts: in words, with the first."""
    texts: dict[str, tuple[str, str]] = {}
    clashes = []
    for method, group in zip(methods, groups, strict=True):
        for key, rows in group.items():
            for row in rows:
                text = said(row)
                if text is None:
                    continue
                before = texts.setdefault(key, (text, method.name))
                if before[0] != text:
                    clashes.append((key, before[1], method.name))
    if not clashes:
        return None
    (key, first, second), count = clashes[0], len({key for key, *_ in clashes})
    return f"{count} ids stand for different prompts, the first {key!r} of {first} and {second}."


def _repeated(name: str, group: Groups) -> str | None:
    several = [len(rows) for rows in group.values() if len(rows) > 1]
    if not several:
        return None
    return (
        f"{name}: {len(several)} prompts come more than once, up to {max(several)} times: they count once, with "
        "the mean over their rows"
    )


def _prompts(keys: Sequence[str], groups: Sequence[Groups]) -> dict[str, str]:
    """Each prompt's text, from the first source that has it; "" where none does."""
    return {key: next((row.prompt for group in groups for row in group[key] if row.prompt), "") for key in keys}


def _what(method: MethodRows) -> str:
    ids, texts = sum(r.key is not None for r in method.rows), sum(bool(r.prompt) for r in method.rows)
    return f"{len(method.rows)} rows, {ids} with an id, {texts} with a prompt"


def _examples(group: Groups) -> str:
    some = ", ".join(repr(key if len(key) <= 40 else key[:39] + "…") for key in list(group)[:SHOWN])
    return f"{some} and {len(group) - SHOWN} more" if len(group) > SHOWN else some


def asked_of_rows(methods: Sequence[MethodRows]) -> list[list[Record | None]]:
    """Of each row of each source all that is known of what was asked. Turns and columns that its own source lacks
    are those of another that it can be joined with. None for a row without a prompt."""
    known: dict[int, Record] = {}
    with suppress(TrimtabError):  # whether they must be joined is no matter here
        joined = join(methods)
        known = {id(row): joined.asked[key] for group in joined.rows for key in joined.keys for row in group[key]}
    return [[_known(row, known.get(id(row))) for row in method.rows] for method in methods]


def _known(row: Row, joined: Record | None) -> Record | None:
    prompt = row.turns or (joined.prompt if joined is not None else None) or row.prompt
    if not prompt:
        return None
    columns = row.columns if joined is None else {**joined.columns, **row.columns}
    return Record(prompt, (), columns=columns)
