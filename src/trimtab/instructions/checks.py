"""A row's instructions in IFEval's layout, read and checked against an answer.

    {"prompt": …, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}

`kwargs` holds the arguments of each instruction: those that it has, or all with nulls, as google/IFEval has them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from trimtab.data.fields import BadRowError, json_of
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.instructions.mended import Checker, checkers, known_language, literal, loose_variants
from trimtab.json_types import JsonObject, JsonValue

IDS, ARGUMENTS = "instruction_id_list", "kwargs"
COLUMNS = (IDS, ARGUMENTS)
"""The columns of a row that hold its instructions."""
LISTS = ("keywords", "forbidden_words")
"""Arguments that are lists of words."""
NUMBERS = ("num_", "nth_", "frequency", "let_frequency", "capital_frequency")
"""How the names of arguments begin that are whole numbers; the others are texts."""


class Verdict(NamedTuple):
    """Of one instruction. loose: whether it holds in any of IFEval's eight readings of the answer."""

    kind: str
    strict: bool
    loose: bool


class Instruction(NamedTuple):
    """kind: IFEval's id, such as punctuation:no_comma. text: in the package's words."""

    kind: str
    checker: Checker
    text: str

    def holds(self, answer: str) -> bool:
        """Whether it holds in an answer as it is; nothing holds in an empty one."""
        try:
            return bool(answer.strip()) and bool(self.checker.check_following(answer))
        except RecursionError:  # json.loads of a thousand brackets
            return False

    def verdict(self, answer: str) -> Verdict:
        """Whether it holds strictly and loosely."""
        strict = self.holds(answer)
        readings = () if strict else dict.fromkeys(loose_variants()(answer))
        return Verdict(self.kind, strict, strict or any(map(self.holds, readings)))


def verdicts(instructions: Sequence[Instruction], answer: str) -> list[Verdict]:
    """One for each instruction of a prompt."""
    return [instruction.verdict(answer) for instruction in instructions]


def instructions_of(columns: Mapping[str, JsonValue]) -> tuple[Instruction, ...]:
    """A row's instructions; () where it has none. columns: the row's, by name. BadRowError, in words, where they
    are no instructions that the package knows, or lack an argument."""
    kinds, arguments = json_of(columns.get(IDS)), json_of(columns.get(ARGUMENTS))
    if not kinds:
        return ()
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise BadRowError(f"column {IDS!r} must be a list of names such as punctuation:no_comma.")
    arguments = [{}] * len(kinds) if arguments is None else arguments
    if not isinstance(arguments, list) or len(arguments) != len(kinds):
        raise BadRowError(
            f"column {ARGUMENTS!r} must be a list with an object for each of {len(kinds)} instructions."
        )
    return tuple(_instruction(kind, given) for kind, given in zip(kinds, arguments, strict=True))


def instruction_of(kind: str, arguments: JsonObject) -> Instruction:
    """One instruction with all its arguments. BadRowError as of `instructions_of`."""
    return _instruction(kind, arguments)


def check_rows(records: Sequence[Record]) -> int:
    """How many rows have no instructions. TrimtabError, with file and row, for the first that is wrong, or where no
    row has any."""
    without = 0
    for record in records:
        try:
            without += not instructions_of(record.columns)
        except BadRowError as error:
            raise TrimtabError(f"{record.origin}: {error}") from None
    if records and without == len(records):
        raise TrimtabError(
            f"{records[0].origin}: no row has instructions: a column {IDS}, with their arguments in {ARGUMENTS}. "
            "Name data such as google/IFEval, or make them with: python -m trimtab.instructions.prompts."
        )
    return without


def _instruction(kind: str, given: JsonValue) -> Instruction:
    try:
        return _made(kind, json.dumps(given, sort_keys=True))
    except TypeError:
        raise BadRowError(f"column {ARGUMENTS!r}: {kind}: no object of JSON.") from None


@lru_cache(maxsize=65536)
def _made(kind: str, given: str) -> Instruction:
    """Kept: rows come back step after step. given: the arguments as JSON."""
    table = checkers()
    if kind not in table:
        near = difflib.get_close_matches(kind, table, n=1, cutoff=0.6)
        raise BadRowError(
            f"column {IDS!r}: there is no instruction {kind!r}. "
            + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(table))}.")
        )
    checker, arguments = table[kind](kind), json.loads(given)
    if not isinstance(arguments, dict | None):
        raise BadRowError(f"column {ARGUMENTS!r}: {kind}: expected an object, found {given[:40]}.")
    arguments = {name: value for name, value in (arguments or {}).items() if value is not None}
    _check_arguments(kind, checker, arguments)
    text = _build(kind, checker, arguments)
    literal(kind, checker, arguments)
    return Instruction(kind, checker, text)


def _check_arguments(kind: str, checker: Checker, arguments: JsonObject) -> None:
    """BadRowError for one that lacks (the package would draw it), is unknown, or can never hold."""
    what, names = f"column {ARGUMENTS!r}: {kind}", checker.get_instruction_args_keys()
    if lacking := [name for name in names if name not in arguments]:
        raise BadRowError(f"{what} lacks {', '.join(lacking)}.")
    if unknown := [name for name in arguments if name not in names]:
        raise BadRowError(f"{what} takes no {', '.join(unknown)}.")
    for name, value in arguments.items():
        if name in LISTS:
            right = isinstance(value, list) and bool(value) and all(isinstance(w, str) and w.strip() for w in value)
            expected = "a list of words"
        elif name.startswith(NUMBERS):
            whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
            right, expected = whole and value >= 0, "a whole number"
        else:
            right, expected = isinstance(value, str) and bool(value.strip()), "text"
        if not right:
            raise BadRowError(f"{what}: {name} must be {expected}, found {json.dumps(value)[:40]}.")
    if kind == "keywords:letter_frequency" and len(arguments["letter"].lower()) != 1:
        raise BadRowError(f"{what}: letter must be one letter, found {arguments['letter']!r}.")
    if kind == "length_constraints:nth_paragraph_first_word" and _never_first(arguments["first_word"]):
        raise BadRowError(f"{what}: no paragraph's first word is ever {arguments['first_word']!r}.")
    if "nth_paragraph" in arguments and not 1 <= arguments["nth_paragraph"] <= arguments["num_paragraphs"]:
        raise BadRowError(f"{what}: nth_paragraph can't be {arguments['nth_paragraph']} of num_paragraphs.")
    if kind == "language:response_language" and not known_language(arguments["language"]):
        raise BadRowError(f"{what}: no text is ever found to be in {arguments['language']!r}.")


def _never_first(word: str) -> bool:
    """Whether the package, which ends a word at a space or one of these, never finds it."""
    return any(mark in word for mark in ".,?!'\"") or len(word.split()) > 1


def _build(kind: str, checker: Checker, arguments: JsonObject) -> str:
    """The instruction in words. BadRowError where the package takes other arguments than it was given."""
    given = {name: int(value) if isinstance(value, float) else value for name, value in arguments.items()}
    if kind == "keywords:letter_frequency":
        given["letter"] = "a"  # another character than a letter is drawn anew; `literal` sets the right one
    try:
        text = checker.build_description(**given)
    except Exception as error:
        raise BadRowError(f"column {ARGUMENTS!r}: {kind}: {type(error).__name__}: {error}") from None
    for name, value in (checker.get_instruction_args() or {}).items():
        if _plain(value) != _plain(given[name]):
            raise BadRowError(f"column {ARGUMENTS!r}: {kind}: {name} can't be {json.dumps(arguments[name])[:40]}.")
    return (
        text if kind != "keywords:letter_frequency" else text.replace("letter a ", f"letter {arguments['letter']} ")
    )


def _plain(value: Any) -> Any:
    """As the package may change it: in small letters, in another order."""
    if isinstance(value, list):
        return sorted(set(value))
    return value.strip().lower() if isinstance(value, str) else value
