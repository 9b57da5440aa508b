"""Prompts with instructions that a program checks, made of any data's prompts: as many as a run wants.

    python -m trimtab.instructions.prompts DATA --out prompts.jsonl [--rows N] [--seed S] [--exclude TEST]

Each prompt gets one to three instructions, worded by the checkers' own package behind an empty line, with arguments
that it draws; docs/instructions.md says which. The same command writes the same file.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trimtab.data.fields import BadRowError
from trimtab.data.message import Conversation, Prompt, prompt_as_json
from trimtab.data.records import Record, read_records
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError
from trimtab.files import write_text
from trimtab.instructions.checks import ARGUMENTS, IDS, Instruction, instruction_of, instructions_of
from trimtab.instructions.mended import checkers, conflicts
from trimtab.json_types import JsonObject
from trimtab.notices import say

LEFT_OUT = (
    "language:response_language",  # what the prompt asks for is in English
    "combination:repeat_prompt",  # asks for the very prompt that it stands in
    "detectable_format:constrained_response",  # "My answer is yes." answers few prompts
)
"""Kinds that can't be asked of any prompt."""
ALSO_CONFLICT = {
    "detectable_format:multiple_sections": {"change_case:english_lowercase", "change_case:english_capital"}
}
"""Beside the package's own table: "Section 1" is in neither case."""
MOST = 3
"""Instructions of a prompt, as IFEval has."""
TRIES = 1000


class Drawn:
    """One prompt's instructions. arguments: of each, as a row holds them."""

    def __init__(self, instructions: Sequence[Instruction], arguments: Sequence[JsonObject]) -> None:
        self.instructions, self.arguments = instructions, arguments

    @property
    def kinds(self) -> frozenset[str]:
        """The combination: what training and test must not share where combinations are held out."""
        return frozenset(instruction.kind for instruction in self.instructions)

    @property
    def text(self) -> str:
        """All of them in words, a line each."""
        return "\n".join(instruction.text.strip() for instruction in self.instructions)


def draw(seed: str, kinds: Sequence[str], most: int = MOST, excluded: Collection[frozenset[str]] = ()) -> Drawn:
    """One to `most` instructions that don't conflict, in a combination that is not excluded. The global generator
    is left as it was. TrimtabError where nothing is found."""
    with _seeded(seed):
        for _ in range(TRIES):
            chosen = _choose(kinds, random.randint(1, most))
            if frozenset(chosen) not in excluded:
                drawn = [_arguments(kind) for kind in chosen]
                if not _contradict(drawn):
                    instructions = [instruction_of(kind, given) for kind, given in zip(chosen, drawn, strict=True)]
                    return Drawn(instructions, drawn)
    raise TrimtabError("instructions: no combination of these kinds is left that is not excluded.")


def _choose(kinds: Sequence[str], count: int) -> list[str]:
    """So many kinds that don't conflict, or fewer where no other goes with them."""
    chosen: list[str] = []
    for kind in random.sample(kinds, len(kinds)):
        if len(chosen) < count and not any(_conflict(kind, other) for other in chosen):
            chosen.append(kind)
    return chosen


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """The package draws from Python's global generator."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _conflict(kind: str, other: str) -> bool:
    own = (ALSO_CONFLICT.get(kind, ()), ALSO_CONFLICT.get(other, ()))
    return other in conflicts()[kind] or other in own[0] or kind in own[1]


def _arguments(kind: str) -> JsonObject:
    """Arguments as the package draws them, again where they can never hold: "less than 1 sentences", or the third
    of two paragraphs."""
    for _ in range(TRIES):
        checker = checkers()[kind](kind)
        checker.build_description()
        arguments: JsonObject = json.loads(json.dumps(dict(checker.get_instruction_args() or {})))
        low = arguments.get("num_sentences", 2) < 2 and arguments.get("relation") == "less than"
        try:
            instruction_of(kind, arguments)
        except BadRowError:
            continue
        if not low:
            return arguments
    raise TrimtabError(f"instructions: {kind} draws no arguments that can hold.")


def _contradict(drawn: Sequence[JsonObject]) -> bool:
    """Whether a word is both forbidden and asked for."""
    forbidden = {word.lower() for arguments in drawn for word in arguments.get("forbidden_words", ())}
    asked = " ".join(
        str(value).lower() for arguments in drawn for name, value in arguments.items() if name != "forbidden_words"
    )
    return any(word in asked for word in forbidden)


def with_instructions(prompt: Prompt, text: str) -> Prompt | None:
    """The prompt with a text behind its last turn; None where that is not the user's, or the prompt has tools."""
    if isinstance(prompt, str):
        return f"{prompt.rstrip()}\n\n{text}"
    if prompt[-1].role != "user" or (isinstance(prompt, Conversation) and (prompt.tools or prompt.values)):
        return None
    last = replace(prompt[-1], content=f"{prompt[-1].content.rstrip()}\n\n{text}")
    return (*prompt[:-1], last)


def rows_of(
    records: Sequence[Record],
    count: int,
    seed: int,
    kinds: Sequence[str],
    excluded: Collection[frozenset[str]] = (),
) -> list[JsonObject]:
    """So many rows in IFEval's layout. Where there are fewer prompts, they come again with other instructions."""
    distinct = list({repr(record.prompt): record for record in records}.values())
    usable = [record for record in distinct if with_instructions(record.prompt, "") is not None]
    if not usable:
        raise TrimtabError("instructions: no prompt ends with a user's turn.")
    rows, seen = [], set()
    for key in range(count):
        for again in range(TRIES):  # a prompt that comes again, with the same instruction without arguments
            drawn = draw(f"{seed} {key} {again}", kinds, excluded=excluded)
            if (key % len(usable), drawn.text) not in seen:
                break
        seen.add((key % len(usable), drawn.text))
        prompt = with_instructions(usable[key % len(usable)].prompt, drawn.text)
        assert prompt is not None
        row: JsonObject = {"key": key, "prompt": prompt_as_json(prompt)}
        rows.append(row | {IDS: [one.kind for one in drawn.instructions], ARGUMENTS: list(drawn.arguments)})
    return rows


def combinations(source: str, test_share: float | None) -> set[frozenset[str]]:
    """The combinations of kinds in a source; with a share those of its test split, as data.split_by makes it."""
    records = read_records(source)
    if test_share is not None:
        records = list(split_records(DataSettings(train=source, test_share=test_share, split_by=IDS)).test)
    found = {frozenset(one.kind for one in instructions_of(record.columns)) for record in records}
    return {kinds for kinds in found if kinds}


def main(
    data: Annotated[str, typer.Argument(help="Rows whose prompts are taken: a file, a folder or a hub name.")],
    out: Annotated[Path, typer.Option(help="The JSONL file that is written.")],
    rows: Annotated[int, typer.Option(min=1, max=10**7, help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed, other instructions.")] = 0,
    exclude: Annotated[
        str, typer.Option(help="Rows with instructions, whose combinations of kinds are not drawn.")
    ] = "",
    test_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of exclude: those of its test split by this share.")
    ] = None,
) -> None:
    """Writes prompts with instructions that a program checks."""
    try:
        kinds = [kind for kind in sorted(checkers()) if kind not in LEFT_OUT]
        excluded = combinations(exclude, test_share) if exclude else set()
        made = rows_of(read_records(data), rows, seed, kinds, excluded)
    except TrimtabError as error:
        raise SystemExit(str(error)) from None
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    counts = Counter(kind for row in made for kind in row[IDS])
    asked = f"{counts.total()} instructions of {len(counts)} kinds"
    say(f"{out}: {len(made)} prompts with {asked}; {len(excluded)} combinations excluded")


if __name__ == "__main__":
    typer.run(main)
