"""Labels of a file as votes on the answers that are compared: whose they are, and which could not be used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trimtab.catalogue import label
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.summary import StudyOutputs
from trimtab.evaluation.votes import Labels, Vote
from trimtab.readers.labels import LabelFile, LabelRow, read_labels
from trimtab.readers.values import plain

OPPONENT = "opponent"
"""What any file may call the opponent."""


@dataclass(frozen=True)
class _Side:
    """One method: its completions by prompt, by training seed, or by None where no seed touches it."""

    name: str
    texts: Mapping[int | None, Mapping[str, str | None]]


@dataclass
class _Compared:
    """Everything that votes may be on. by_id, by_text: the prompts' ids by what labels may call them."""

    sides: dict[str, _Side] = field(default_factory=dict)
    by_id: dict[str, str] = field(default_factory=dict)
    by_text: dict[str, str] = field(default_factory=dict)
    opponent: str | None = None


def labels_of(
    path: Path,
    outputs: StudyOutputs,
    start: str | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    one_sample: bool = True,
) -> Labels:
    """A file's labels, joined to the prompts by id or text.

    start: what labels of one method alone are against, where there is no opponent. aliases: ids of prompts by
    other names that labels may have for them. one_sample: whether each prompt was answered once, so that a label
    with another text is one of other answers. TrimtabError where no label fits what is compared.
    """
    compared = _compared(outputs, aliases or {})
    file = read_labels(path, mapping or {}, _pair(compared, start))
    return _labels_of(file, path.name, compared, start, one_sample)


def labels_in(file: LabelFile, source: str, outputs: StudyOutputs) -> Labels:
    """The same of judgements that were read already."""
    return _labels_of(file, source, _compared(outputs, {}), None, one_sample=True)


def _pair(compared: _Compared, start: str | None) -> tuple[str, str] | None:
    """The two methods of labels that name none, where only two are compared."""
    against = compared.opponent or start
    others = [name for name in compared.sides if name != against]
    return (others[0], against) if len(others) == 1 and against is not None else None


def _labels_of(file: LabelFile, source: str, compared: _Compared, start: str | None, one_sample: bool) -> Labels:
    pair, against = _pair(compared, start), compared.opponent or start
    lost: Counter[str] = Counter()
    votes = []
    for row in file.rows:
        found = _vote(row, compared, pair, against, one_sample)
        if isinstance(found, Vote):
            votes.append(found)
        else:
            lost[found] += 1
    told = _told(file, lost)
    if not votes:
        raise TrimtabError(f"{source}: no label is of what is compared. {'; '.join(told) or 'It has no rows.'}")
    ties = _ties(votes, compared) if one_sample else []
    return Labels(source, votes, told, ties, file.cast)


def _ties(votes: Sequence[Vote], compared: _Compared) -> list[Vote]:
    """Of each two methods whose identical answers nobody was asked about, so many of these as ties as chance would
    have drawn beside those that were asked about: the estimate is then that of both strata, each by its share of
    all prompts. All of them would weigh too much, none too little."""
    found = []
    for a, b in dict.fromkeys((vote.first, vote.second) for vote in votes):
        asked = {(vote.seed, vote.id) for vote in votes if (vote.first, vote.second) == (a, b)}
        same, other = _rows_of_pair(compared.sides[a], compared.sides[b])
        if asked & same.keys() or not other:
            continue
        count = round(len(asked) * len(same) / len(other))
        drawn = sorted(same, key=lambda row: hashlib.sha256(repr((a, b, row)).encode("utf-8", "replace")).digest())
        found += [Vote(key, a, b, 0.5, "", seed) for seed, key in drawn[:count]]
    return found


def _rows_of_pair(
    a: _Side, b: _Side
) -> tuple[dict[tuple[int | None, str], None], dict[tuple[int | None, str], None]]:
    """Training seed and prompt of the answers of two methods: those that are the same text, and the others."""
    seeds: list[int | None] = [seed for seed in dict.fromkeys([*a.texts, *b.texts]) if seed is not None]
    same: dict[tuple[int | None, str], None] = {}
    other: dict[tuple[int | None, str], None] = {}
    for seed in seeds or [None]:
        ours, theirs = (side.texts.get(seed, side.texts.get(None, {})) for side in (a, b))
        for key, text in ours.items():
            against = theirs.get(key)
            if text is not None and against is not None:
                (same if text.strip() == against.strip() else other)[seed, key] = None
    return same, other


def with_labels(outputs: StudyOutputs, file: str | None) -> StudyOutputs:
    """A study's outputs with the labels of a file, where one is named."""
    return outputs if file is None else replace(outputs, labels=labels_of(Path(file).expanduser(), outputs))


def _compared(outputs: StudyOutputs, aliases: Mapping[str, str]) -> _Compared:
    runs: dict[str, dict[int | None, MethodOutputs]] = {}
    for made in outputs.fixed:
        runs.setdefault(made.name, {})[None] = made
    for seed, of_seed in outputs.per_seed.items():
        for made in of_seed:
            runs.setdefault(made.name, {})[seed] = made
    own = [made.opponent for by_seed in runs.values() for made in by_seed.values() if made.opponent is not None]
    opponents = [outputs.opponent] if outputs.opponent is not None else own
    for made in opponents:
        runs.setdefault(made.name, {None: made})
    found = _Compared(
        {
            name: _Side(
                name, {seed: {a.id: a.completion for a in made.generations} for seed, made in by_seed.items()}
            )
            for name, by_seed in runs.items()
        }
    )
    names = dict.fromkeys(made.name for made in opponents)
    found.opponent = next(iter(names)) if len(names) == 1 else None
    for answer in next(iter(next(iter(runs.values())).values())).generations:
        found.by_id[answer.id] = answer.id
        if answer.prompt:
            found.by_text[plain(answer.prompt)] = answer.id
    found.by_id |= {alias: key for alias, key in aliases.items() if key in found.by_id}
    return found


def _vote(
    row: LabelRow, compared: _Compared, pair: tuple[str, str] | None, against: str | None, one_sample: bool
) -> Vote | str:
    """The vote, or why the row is none."""
    key = compared.by_id.get(row.key) if row.key is not None else None
    if key is None and row.prompt is not None:
        key = compared.by_text.get(plain(row.prompt))
    if key is None:
        return "of prompts that are not compared"
    first = _side(row.first or (pair[0] if pair else None), compared)
    second = _side(row.second or against, compared)
    if first is None or second is None:
        unknown = row.first if first is None else row.second
        return f"of {unknown or 'no method'}, which is not compared"
    if first.name == second.name:
        return f"of {first.name} with itself"
    seed = _seed(row, key, first, second)
    if isinstance(seed, str):
        return seed
    if one_sample and any(
        _is_other(text, side, seed, key) for text, side in zip(row.texts, (first, second), strict=True)
    ):
        return "of other answers than those that are compared"
    return Vote(key, first.name, second.name, row.share, row.person, seed)


def _side(name: str | None, compared: _Compared) -> _Side | None:
    if name is None:
        return None
    if name in compared.sides:
        return compared.sides[name]
    if name == OPPONENT and compared.opponent is not None:
        return compared.sides[compared.opponent]
    called = name.casefold()
    return next(
        (s for s in compared.sides.values() if called in (s.name.casefold(), label(s.name).casefold())), None
    )


def _seed(row: LabelRow, key: str, *sides: _Side) -> int | str | None:
    """The training seed that answered: the row's, the only one, or the one whose answers these are."""
    seeds = [seed for side in sides for seed in side.texts if seed is not None]
    if not seeds:
        return None
    if row.seed is not None:
        return row.seed if row.seed in seeds else f"of training seed {row.seed}, which is not compared"
    if len(set(seeds)) == 1:
        return seeds[0]
    if any(text is not None for text in row.texts):
        for seed in dict.fromkeys(seeds):
            pairs = zip(row.texts, sides, strict=True)
            if not any(_is_other(text, side, seed, key) for text, side in pairs):
                return seed
        return "of other answers than those that are compared"
    return "without a seed, of methods with several training seeds (a column seed says whose answer was judged)"


def _is_other(text: str | None, side: _Side, seed: int | None, key: str) -> bool:
    """Whether a label's text is not the answer that is compared."""
    answer = side.texts.get(seed, side.texts.get(None, {})).get(key)
    return text is not None and answer is not None and plain(answer) != plain(text)


def _told(file: LabelFile, lost: Mapping[str, int]) -> list[str]:
    """What was left out, a line each."""
    told = [f"{_labels(count)} {why}" for why, count in lost.items()]
    told += [f"{_labels(count)} unreadable ({why})" for why, count in file.unreadable.most_common(3)]
    told += [f"{_labels(file.skipped)} without a judgement"] if file.skipped else []
    told += [f"{_labels(file.not_random)} marked as not random"] if file.not_random else []
    return [f"{line}, left out" for line in told]


def _labels(count: int) -> str:
    return "1 label is" if count == 1 else f"{count} labels are"
