"""From joined rows to what evaluation compares: which source is a method, which the opponent, and each one's
outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from trimtab.comparing.join import Joined, join
from trimtab.errors import TrimtabError
from trimtab.evaluation.instruction_accuracy import asked_of
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs, Score
from trimtab.evaluation.summary import StudyOutputs
from trimtab.readers.rows import MethodRows, Row, Side


@dataclass(frozen=True)
class Sides:
    """What is compared. outputs: as a study's. start: what the others are set beside: the opponent, or the first
    method. candidates: the others, in their order. judge: who scored, where all say the same."""

    outputs: StudyOutputs
    start: str
    candidates: list[str]
    joined: Joined
    judge: str | None
    told: list[str] = field(default_factory=list)


def sides_of(methods: Sequence[MethodRows], opponent: str | None = None) -> Sides:
    """Who stands against whom.

    Rows that hold their opponent's answers, or preferences, are against that one. Otherwise the opponent is the
    source that is named, or the first. TrimtabError where there is nothing to compare.
    """
    methods, told = _of_common_seeds(_without_row_opponents(methods, opponent))
    names = list(dict.fromkeys(method.name for method in methods))
    own = {method.name for method in methods if method.has_opponent and method.name != opponent}
    if opponent is not None and opponent not in names and opponent not in {m.opponent for m in methods}:
        raise TrimtabError(f"--opponent {opponent}: there is no such method. There are: {', '.join(names)}.")
    if opponent in names:
        own = set()
    against = opponent if opponent in names else (None if own else names[0])
    if len(names) == 1 and not own:
        raise TrimtabError(f"nothing to compare {names[0]} with. Name a second source.")
    joined = join(methods)
    told = [*told, *joined.told, *_different_judges(methods)]
    if own and (without := [name for name in names if name not in own]):
        told.append(f"{', '.join(without)}: no scores of an opponent, so no win rate")
    outputs: dict[tuple[str, int | None], MethodOutputs] = {}
    for method, rows in zip(methods, joined.rows, strict=True):
        made = _outputs(method.name, joined, rows)
        if method.name in own:
            _set_beside(made, joined, rows, str(method.opponent), set(names))
        outputs[method.name, method.seed] = made
    _count_alike(outputs)
    common = outputs.pop((against, None), None) if against is not None else _shared_opponent(outputs, own)
    if against is not None and common is None:
        raise TrimtabError(f"--opponent {against}: has several training seeds; name another.")
    if against is not None and common is not None:
        _beat(outputs, joined, methods, against)
    rest = [name for name in names if name != against]
    start = common.name if against is not None and common is not None else rest[0]
    if len(rest) == 1 and against is None:
        start = next((m.opponent.name for m in outputs.values() if m.opponent), common.name if common else start)
    seeds = sorted({seed for _, seed in outputs if seed is not None})
    instructions, unchecked = asked_of(list(joined.asked.values()))
    study = StudyOutputs(
        {seed: [made for (_, own_seed), made in outputs.items() if own_seed == seed] for seed in seeds},
        [made for (_, own_seed), made in outputs.items() if own_seed is None],
        common,
        asked=instructions,
    )
    told += [*_anew(outputs), *filter(None, [unchecked])]
    return Sides(study, start, [name for name in rest if name != start], joined, _judge(methods), told)


def _judge(methods: Sequence[MethodRows]) -> str | None:
    """Who scored, as far as the sources say; None where nothing was scored."""
    if not any(method.has_scores or method.has_opponent for method in methods):
        return None
    judges = list(dict.fromkeys(method.judge for method in methods if method.judge))
    return "; ".join(judges) if judges else "whoever scored the sources"


def _anew(outputs: Mapping[tuple[str, int | None], MethodOutputs]) -> list[str]:
    """Where one opponent gave the methods different answers or scores: its own chance is in their difference."""
    told = []
    opponents = [made.opponent for made in outputs.values() if made.opponent is not None]
    for name in dict.fromkeys(opponent.name for opponent in opponents):
        same = [opponent for opponent in opponents if opponent.name == name]
        rows = list(zip(*(zip(o.generations, o.scores or o.generations, strict=True) for o in same), strict=True))
        differing = sum(any(row != of_prompt[0] for row in of_prompt) for of_prompt in rows)
        if differing:
            told.append(
                f"{name}: on {differing} of {len(rows)} prompts its answers or scores are not the same for "
                "every method, which adds its own chance to their differences"
            )
    return told


def _without_row_opponents(methods: Sequence[MethodRows], opponent: str | None) -> list[MethodRows]:
    """Without a source that is what the rows of the others are against already, as the outputs of AlpacaEval's
    reference beside its annotations."""
    against = {method.opponent for method in methods if method.has_opponent and method.opponent is not None}
    if opponent is not None and opponent not in against:
        return list(methods)
    return [method for method in methods if method.name not in against]


def _of_common_seeds(methods: Sequence[MethodRows]) -> tuple[list[MethodRows], list[str]]:
    """With the training seeds that all methods have that have any; where there is none in common, the first of
    each, as if it were the only one."""
    by_name: dict[str, set[int]] = {}
    for method in methods:
        if method.seed is not None:
            by_name.setdefault(method.name, set()).add(method.seed)
    if not by_name:
        return list(methods), []
    common = set.intersection(*by_name.values())
    every = set.union(*by_name.values())
    if len(common) > 1:
        kept = [method for method in methods if method.seed is None or method.seed in common]
        lost = sorted(every - common)
        told = (
            [f"training seeds {', '.join(map(str, lost))} are not of every method and are left out"] if lost else []
        )
        return kept, told
    seen: set[str] = set()
    kept = []
    for method in methods:
        if method.seed is None or method.name not in seen:
            kept.append(method)
            seen.add(method.name)
    for method in kept:
        method.seed = None
    return kept, ["methods have no two training seeds in common: the first of each is compared, as one draw"]


def _different_judges(methods: Sequence[MethodRows]) -> list[str]:
    judged = {method.name: method.judge for method in methods if method.judge}
    if len(set(judged.values())) < 2:
        return []
    who = "; ".join(f"{name} by {judge}" for name, judge in judged.items())
    return [f"scores are by different judges, so differences between them say little: {who}"]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _answer(key: str, prompt: str, sides: Sequence[Side]) -> GivenAnswer:
    """One answer; of several samples the first's text, and their mean length."""
    first = sides[0] if sides else Side()
    lengths = [length for side in sides if (length := side.length) is not None]
    tokens = [side.tokens for side in sides if side.tokens is not None]
    mean_length, mean_tokens = _mean(lengths), _mean(tokens)
    return GivenAnswer(
        key,
        prompt,
        first.completion,
        round(mean_tokens) if mean_tokens is not None else None,
        first.terminated,
        round(mean_length) if mean_length is not None else None,
    )


def _score(key: str, sides: Sequence[Side]) -> Score:
    """The mean of the samples' scores."""
    score = _mean([side.score for side in sides if side.score is not None])
    if score is not None:
        return Score(id=key, score=score, breakdown=dict(sides[0].breakdown) if len(sides) == 1 else {})
    reason = next((side.reason for side in sides if side.reason), "it has no score")
    return Score(id=key, score=None, reason=reason)


def _outputs(name: str, joined: Joined, rows: Mapping[str, Sequence[Row]]) -> MethodOutputs:
    sides = {key: [row.side for row in rows[key]] for key in joined.keys}
    return _made(name, joined, sides)


def _made(name: str, joined: Joined, sides: Mapping[str, Sequence[Side]]) -> MethodOutputs:
    answers = [_answer(key, joined.prompts[key], sides[key]) for key in joined.keys]
    scores = [_score(key, sides[key]) for key in joined.keys]
    return MethodOutputs(name, answers, scores if any(score.score is not None for score in scores) else [])


def _count_alike(outputs: Mapping[tuple[str, int | None], MethodOutputs]) -> None:
    """Where tokens of some answer are not known, nobody's count: lengths are then in characters, of all."""
    everyone = [side for made in outputs.values() for side in (made, made.opponent) if side is not None]
    if all(answer.tokens is not None for made in outputs.values() for answer in made.generations):
        return
    for side in everyone:
        side.generations = [
            replace(answer, tokens=None) if isinstance(answer, GivenAnswer) else answer
            for answer in side.generations
        ]


def _set_beside(
    made: MethodOutputs, joined: Joined, rows: Mapping[str, Sequence[Row]], name: str, taken: set[str]
) -> None:
    """Gives outputs the opponent of their own rows, and what was preferred."""
    called = f"opponent {name}" if name in taken | {"chosen"} else name
    sides = {key: [row.opponent for row in rows[key] if row.opponent is not None] for key in joined.keys}
    made.opponent = _made(called, joined, sides)
    if any(row.judged for key in joined.keys for row in rows[key]):
        shares = ([row.preference for row in rows[key] if row.preference is not None] for key in joined.keys)
        made.preferences = [_mean(of_prompt) for of_prompt in shares]
    elif any(len(rows[key]) > 1 for key in joined.keys):
        pairs = (
            [_won(row.side, row.opponent) for row in rows[key] if row.opponent is not None] for key in joined.keys
        )
        made.preferences = [_mean([won for won in of_prompt if won is not None]) for of_prompt in pairs]


def _won(side: Side, other: Side) -> float | None:
    if side.score is None or other.score is None:
        return None
    return 0.5 if side.score == other.score else float(side.score > other.score)


def _beat(
    outputs: Mapping[tuple[str, int | None], MethodOutputs],
    joined: Joined,
    methods: Sequence[MethodRows],
    against: str,
) -> None:
    """Where prompts have several samples: the share of pairs of samples that the method wins, since a mean score of
    samples would be compared as if it were one answer's."""
    of_opponent = next(rows for m, rows in zip(methods, joined.rows, strict=True) if m.name == against)
    for method, rows in zip(methods, joined.rows, strict=True):
        several = any(len(rows[key]) > 1 or len(of_opponent[key]) > 1 for key in joined.keys)
        made = outputs.get((method.name, method.seed))
        if made is None or not several or not made.scores:
            continue
        made.preferences = []
        for key in joined.keys:
            pairs = [_won(row.side, other.side) for row in rows[key] for other in of_opponent[key]]
            made.preferences.append(_mean([won for won in pairs if won is not None]))


def _shared_opponent(
    outputs: Mapping[tuple[str, int | None], MethodOutputs], own: set[str]
) -> MethodOutputs | None:
    """The opponent of all methods, where it gave every one of them the same answers; then it is one, with a row of
    its own in the results."""
    opponents = [made.opponent for made in outputs.values() if made.opponent is not None]
    same = len(opponents) == len(outputs) and all(
        (o.name, o.generations, o.scores) == (opponents[0].name, opponents[0].generations, opponents[0].scores)
        for o in opponents
    )
    if not opponents or not same:
        return None
    if not opponents[0].scores and all(answer.completion is None for answer in opponents[0].generations):
        return None  # a name alone
    for made in outputs.values():
        made.opponent = None
    return opponents[0]
