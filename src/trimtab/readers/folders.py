"""Folders that trimtab wrote: of `generate`, of `evaluate`, and of a study with its training seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from trimtab.catalogue import ordered_methods
from trimtab.data.message import Turns
from trimtab.errors import TrimtabError
from trimtab.evaluation.asked import FILE, AskedPrompt, read_asked
from trimtab.evaluation.outputs import PREFERENCES, SCORES, Generation, Score, read_generations, read_scores
from trimtab.json_types import JsonObject
from trimtab.notices import warn
from trimtab.readers.columns import Reading
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.readers.values import more_than_text

OPPONENT, BASE = "opponent", "base"
"""The folders of what the methods of an evaluation are compared with."""


def suits(path: Path) -> bool:
    """Whether completions of trimtab's lie in it."""
    return path.is_dir() and any(_places(path))


def _places(path: Path) -> Iterator[tuple[int | None, Path]]:
    """(training seed, folder with generations.jsonl); the seed is None where there are none."""
    if (path / "generations.jsonl").is_file():
        yield None, path
    for file in sorted(path.glob("evaluation/*/generations.jsonl")):
        yield None, file.parent
    for file in sorted(path.glob("seed-*/evaluation/*/generations.jsonl")):
        seed = file.parents[2].name.removeprefix("seed-")
        if seed.isdigit():
            yield int(seed), file.parent


def read(path: Path, asked: Reading) -> list[MethodRows]:
    """As `methods_of`, with a warning of a single training seed. Columns are known: --map says nothing of them."""
    if len({seed for seed, _ in _places(path) if seed is not None}) == 1:
        warn(
            f"{path.name}: one training seed: the intervals hold for other prompts, not for another training run",
            about=f"seeds of {path}",
        )
    return methods_of(path)


def methods_of(path: Path) -> list[MethodRows]:
    """Every method, of each training seed, against the folder's own opponent where it has one, which comes last.
    TrimtabError where a file of it is damaged."""
    results = _results(path)
    places = list(_places(path))
    against_name = _opponent(path, [place for _, place in places])
    judge, called = results.get("judge"), results.get("opponent")
    if results.get("opponent_method") == against_name:
        called = against_name
    opponent = next((_sides(place) for _, place in places if place.name == against_name and place != path), None)
    seeds = {seed for seed, _ in places if seed is not None}
    methods = []
    for seed, place in places:
        is_opponent = place.name == against_name and place != path
        name = (str(called or OPPONENT) if is_opponent else place.name) if place != path else path.resolve().name
        sides, preferred, asked = _sides(place), _preferences(place), read_asked(place)
        rows = [
            Row(
                key,
                generation.prompt,
                side,
                _beside(opponent, key) if not is_opponent else None,
                preferred.get(key),
                judged=bool(preferred),
                turns=_turns(asked, generation, place),
                columns=asked[key].columns if key in asked else {},
            )
            for key, (generation, side) in sides.items()
        ]
        against = str(called or OPPONENT) if opponent is not None and not is_opponent else None
        # What no seed touches lies in the first one's folder.
        own_seed = seed if len(seeds) > 1 and _comes_again(place, places) else None
        by = judge if _is_scored(rows) else None
        methods.append(MethodRows(name, rows, str(place), against, by, own_seed, whole=bool(asked)))
    order = {name: i for i, name in enumerate(ordered_methods(dict.fromkeys(m.name for m in methods)))}
    last = str(called or OPPONENT) if opponent is not None else None
    return sorted(methods, key=lambda m: (m.name == last and m.opponent is None, order[m.name]))


def _turns(asked: Mapping[str, AskedPrompt], generation: Generation, place: Path) -> Turns:
    """The whole conversation that a completion answers; () where it is the prompt alone, or not known. TrimtabError
    where the file is of other prompts."""
    if (whole := asked.get(generation.id)) is None:
        return ()
    if (whole.prompt if isinstance(whole.prompt, str) else whole.prompt[-1].content) != generation.prompt:
        raise TrimtabError(
            f"{place / FILE}: {generation.id} is another prompt than in generations.jsonl. Remove it; the command "
            "that made it writes it anew."
        )
    return more_than_text(whole.prompt)


def _comes_again(place: Path, places: list[tuple[int | None, Path]]) -> bool:
    return sum(other.name == place.name for _, other in places) > 1


def _opponent(path: Path, places: list[Path]) -> str:
    """Which folder is what the others are compared with: in a study whose opponent is its base, that one."""
    names = {place.name for place in places if place != path}
    compared = any((place / PREFERENCES).is_file() for place in places)
    return BASE if compared and OPPONENT not in names else OPPONENT


def _is_scored(rows: list[Row]) -> bool:
    return any(row.side.score is not None or row.preference is not None for row in rows)


def _preferences(place: Path) -> dict[str, float | None]:
    """By id, of a judge that saw the opponent's answers too; none of any other."""
    if not (place / PREFERENCES).is_file():
        return {}
    return {judged.id: judged.score for judged in read_scores(place / PREFERENCES)}


def _beside(opponent: dict[str, tuple[Generation, Side]] | None, key: str) -> Side | None:
    return opponent[key][1] if opponent is not None and key in opponent else None


def _sides(place: Path) -> dict[str, tuple[Generation, Side]]:
    """By id; scores of an evaluation that was stopped may be fewer than completions."""
    scores: dict[str, Score] = {}
    if (place / SCORES).is_file():
        scores = {score.id: score for score in read_scores(place / SCORES)}
    sides = {}
    for generation in read_generations(place / "generations.jsonl"):
        score = scores.get(generation.id)
        reason = (score.reason if score else "it was not scored") if scores else None
        side = Side(
            generation.completion,
            score.score if score else None,
            reason,
            generation.tokens,
            generation.terminated,
            breakdown=score.breakdown if score else {},
        )
        sides[generation.id] = (generation, side)
    return sides


def _results(path: Path) -> JsonObject:
    """What results.json says of judge and opponent; nothing where there is none that can be read."""
    try:
        value = json.loads((path / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
