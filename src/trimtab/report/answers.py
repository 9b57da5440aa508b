"""Every method's answers side by side, as the page's browser shows them, from the files beside results.json.

Those of a study and of `trimtab evaluate` lie in their own folders; `trimtab compare` writes what it joined into
answers.jsonl: a line a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import Answers as Scored
from trimtab.evaluation.answers import scores_of
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.summary import StudyOutputs
from trimtab.evaluation.win_rate import outcomes
from trimtab.files import write_text
from trimtab.json_types import JsonObject
from trimtab.readers import folders
from trimtab.readers.rows import MethodRows, Row, Side

FILE = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Cell:
    """One method's answer to one prompt. What is not known is None. outcome: against the opponent, 1 won, ½ tied, 0
    lost, or the share that a judge of both gave it."""

    completion: str | None = None
    tokens: int | None = None
    terminated: bool | None = None
    score: float | None = None
    outcome: float | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt and the answers to it, by method."""

    key: str
    text: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Answers:
    """methods: their names, the opponent's last. where: the files that hold all of them. seed: the training seed
    whose answers these are, where there are several."""

    methods: Sequence[str]
    opponent: str | None
    prompts: Sequence[Prompt]
    where: str
    seed: int | None = None

    @property
    def has_texts(self) -> bool:
        """Whether any completion is known."""
        return any(cell.completion is not None for prompt in self.prompts for cell in prompt.cells.values())


def read_answers(folder: Path, opponent: str | None) -> Answers | None:
    """What lies beside results.json; None where nothing does. TrimtabError where it is damaged."""
    if (folder / FILE).is_file():
        return _of_file(folder / FILE, opponent)
    return _of_methods(folders.methods_of(folder), opponent) if folders.suits(folder) else None


def _of_methods(methods: Sequence[MethodRows], opponent: str | None) -> Answers:
    seeds = sorted({method.seed for method in methods if method.seed is not None})
    first = [method for method in methods if method.seed in (None, *seeds[:1])]
    own = {row.key: row.side for method in first if method.name == opponent for row in method.rows}
    prompts: dict[str, tuple[str, dict[str, Cell]]] = {}
    for method in first:
        for place, row in enumerate(method.rows):
            key = row.key or str(place)
            _, cells = prompts.setdefault(key, (row.prompt or "", {}))
            cells[method.name] = _cell(row, None if method.name == opponent else own.get(row.key))
    where = (
        "seed-S/evaluation/METHOD/generations.jsonl"
        if "seed-" in first[0].origin
        else "evaluation/METHOD/generations.jsonl"
    )
    return Answers(
        [method.name for method in first],
        opponent,
        [Prompt(key, text, cells) for key, (text, cells) in prompts.items()],
        where,
        seeds[0] if len(seeds) > 1 else None,
    )


def _cell(row: Row, method_as_opponent: Side | None) -> Cell:
    """method_as_opponent: of a method that is the opponent itself, its answer; rows hold that of any other."""
    side, outcome = row.side, row.preference
    opponent = row.opponent or method_as_opponent
    if opponent is not None and not row.judged:
        outcome = _known(float(outcomes([side.score], [opponent.score])[0]))
    return Cell(side.completion, side.tokens, side.terminated, side.score, outcome)


def _known(value: float) -> float | None:
    return None if value != value else value


def write_answers(outputs: StudyOutputs, folder: Path) -> None:
    """What a comparison joined, for the page and whoever draws it anew; of several training seeds the first's.
    Nothing where no completion is known."""
    per_seed = next(iter(outputs.per_seed.values()), ())
    methods = [*outputs.fixed, *per_seed]
    everyone = [*methods, *([outputs.opponent] if outputs.opponent else [])]
    columns = {
        made.name: list(_cells(made, None if made is outputs.opponent else outputs.opponent)) for made in everyone
    }
    if outputs.opponent is None:
        for own in (made.opponent for made in methods if made.opponent is not None):
            columns.setdefault(own.name, list(_cells(own, None)))
    if not any(cell.completion is not None for column in columns.values() for cell in column):
        (folder / FILE).unlink(missing_ok=True)
        return
    rows = [
        {
            "id": answer.id,
            "prompt": answer.prompt,
            "answers": {name: _without_none(column[place]) for name, column in columns.items()},
        }
        for place, answer in enumerate(everyone[0].generations)
    ]
    write_text(folder / FILE, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def _without_none(cell: Cell) -> JsonObject:
    return {name: value for name, value in asdict(cell).items() if value is not None}


def _cells(made: MethodOutputs, opponent: MethodOutputs | None) -> Iterator[Cell]:
    won = Scored(made, made.opponent or opponent).outcomes
    scores = scores_of(made)
    for place, answer in enumerate(made.generations):
        outcome = None if won is None else _known(float(won[place]))
        yield Cell(answer.completion, answer.tokens, answer.terminated, scores[place], outcome)


def _of_file(file: Path, opponent: str | None) -> Answers:
    prompts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            prompts.append(_prompt(line, f"{file}:{number}"))
    methods = dict.fromkeys(name for prompt in prompts for name in prompt.cells)
    return Answers(list(methods), opponent, prompts, FILE)


def _prompt(line: str, where: str) -> Prompt:
    try:
        row: Any = json.loads(line)
        return Prompt(row["id"], row["prompt"], {name: Cell(**cell) for name, cell in row["answers"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrimtabError(f"{where}: is damaged: {error}. Compare again into this folder.") from None
