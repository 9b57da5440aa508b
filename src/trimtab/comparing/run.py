"""`trimtab compare`: sources in, results as a study's out; and what they say in a word."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import __version__
from trimtab.comparing.join import Joined
from trimtab.comparing.judged import prefer, with_scores, with_sides
from trimtab.comparing.labelled import labelled
from trimtab.comparing.sides import Sides, sides_of
from trimtab.data.hashing import hash_source
from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import Options
from trimtab.evaluation.judge_card import relatives_of
from trimtab.evaluation.judge_probes import Probe, probe_judge, rows_by_id
from trimtab.evaluation.near_duplicates import NEAR_DUPLICATES
from trimtab.evaluation.outcome import Outcome, Word, outcome_of, worst
from trimtab.evaluation.results import Provenance, Results, Setting, Source, SplitCounts
from trimtab.evaluation.statistics import N_RESAMPLES
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.folder_lock import holding
from trimtab.json_types import JsonObject
from trimtab.notices import collected
from trimtab.readers.columns import Reading, mapping_of
from trimtab.readers.formats import parts_of, read_source
from trimtab.readers.labels import without_labels
from trimtab.readers.rows import MethodRows
from trimtab.rewards.settings import reward_named
from trimtab.study.command_line import command_line, today, without_secrets
from trimtab.study.foreign import EVALUATED, GENERATED, TRAINED, refuse_others

if TYPE_CHECKING:
    from trimtab.rewards.settings_base import RewardSettings


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked for. sources: NAME=PATH:METHOD, of which the path alone is needed. mapping: as
    --map. opponent: a method's name. probes: answers that the judge is asked about again (judge_probes.py). out: a
    folder for results and report. labels: a file of what people said. near_duplicates: whether prompts that are
    nearly the same are one in intervals."""

    sources: Sequence[str]
    mapping: Sequence[str] = ()
    opponent: str | None = None
    judge: str | None = None
    probes: int | None = None
    out: Path | None = None
    n_resamples: int = N_RESAMPLES
    labels: Path | None = None
    near_duplicates: bool = False


@dataclass(frozen=True)
class Compared:
    """outcomes: of every method against what the others are set beside. said: the results' warnings that were said
    aloud while the sources were read."""

    results: Results
    outcomes: list[Outcome] = field(default_factory=list)
    said: frozenset[str] = frozenset()

    @property
    def outcome(self) -> Word:
        """Of all: hurt where one hurt, helped where all helped."""
        return worst(self.outcomes)

    def as_json(self) -> JsonObject:
        """For a program: the outcome first; numbers as in results.json."""
        results = self.results
        return {
            "outcome": self.outcome,
            "outcomes": [outcome.model_dump() for outcome in self.outcomes],
            "verdict": results.verdict,
            "warnings": results.warnings,
            "opponent": results.opponent,
            "judge": results.judge,
            "methods": {name: result.model_dump() for name, result in results.methods.items()},
            "comparisons": [comparison.model_dump() for comparison in results.comparisons],
            "people": results.people and results.people.model_dump(),
            "data": {name: counts.model_dump() for name, counts in results.data.items()},
        }


def compare_sources(asked: Asked) -> Compared:
    """Reads, joins, compares; writes results.json, the report and its tables into `out`, where there is one.

    TrimtabError where a source can't be read or joined, nothing can be compared, or `out` is somebody else's.
    """
    settings = reward_named(asked.judge) if asked.judge is not None else None
    if asked.out is not None:
        refuse_others(asked.out, TRAINED | GENERATED | EVALUATED)
    with collected() as told:
        sides, probes = _judged_sides(asked, settings)
        warnings = list(dict.fromkeys([*told.lines, *sides.told]))
    outputs = sides.outputs if asked.labels is None else labelled(sides, asked.labels, mapping_of(asked.mapping))
    compares_opponent = sides.outputs.opponent is not None and sides.start == sides.outputs.opponent.name
    seeds = list(sides.outputs.per_seed)
    about = About(
        name=asked.out.name if asked.out is not None else "comparison",
        judge=settings.describe() if settings is not None and settings.compares else sides.judge,
        warnings=warnings,
        data={"joined": _counts(sides.joined)},
        provenance=_provenance(asked, seeds),
        start=None if compares_opponent else sides.start,
        relatives=relatives_of(settings.model_names if settings else (), _called(sides)),
    )
    options = Options(n_resamples=asked.n_resamples, with_opponent=compares_opponent)
    results = summarise(replace(outputs, probes=probes, near_duplicates=asked.near_duplicates), about, options)
    compared = Compared(results, _outcomes(results, sides), frozenset(told.said))
    if asked.out is not None:
        _write(results, sides.outputs, asked.out)
    return compared


def _called(sides: Sides) -> dict[str, str]:
    """What is compared: a source is called what its model may be."""
    outputs = sides.outputs
    names = [made.name for made in outputs.judged_once()]
    return {name: name for name in [*names, *([outputs.opponent.name] if outputs.opponent else [])]}


def _outcomes(results: Results, sides: Sides) -> list[Outcome]:
    return [outcome_of(results, name, sides.start) for name in sides.candidates]


def read_sources(asked: Asked) -> list[MethodRows]:
    """Every source's methods, each under a name of its own."""
    mapping = mapping_of(asked.mapping)
    if asked.labels is not None:
        mapping = without_labels(mapping, asked.labels)
    reading = Reading(mapping, asked.opponent)
    by_source = [(source, read_source(source, reading)) for source in asked.sources]
    taken: dict[str, str] = {}
    for source, methods in by_source:
        _, path, _ = parts_of(source)
        names = dict.fromkeys(method.name for method in methods)
        clash = [name for name in names if name in taken]
        for method in methods:
            if method.name in clash:
                called = path.parent.name if path.is_file() and path.stem == method.name else _stem(path)
                method.name = f"{called} {method.name}".strip()
                if method.name in taken:
                    raise TrimtabError(
                        f"{source}: called {method.name}, as {taken[method.name]} is. Write NAME={source}."
                    )
        taken.update({method.name: source for method in methods})
    return [method for _, methods in by_source for method in methods]


def _stem(path: Path) -> str:
    return path.resolve().name.partition(".")[0]


def _judged_sides(asked: Asked, settings: RewardSettings | None) -> tuple[Sides, list[Probe]]:
    """Who stands against whom, judged where a judge is asked for; and what that one says when it is asked again."""
    methods = read_sources(asked)
    if settings is None:
        return sides_of(methods, asked.opponent), []
    from trimtab.study.sources import make_judge  # with rewards, of which some load PyTorch

    with tempfile.TemporaryDirectory() as folder:
        judge = make_judge(settings, asked.out or Path(folder))
        assert judge is not None
        if judge.compares:
            sides = sides_of(with_sides(methods), asked.opponent)
            prefer(sides.outputs, judge, sides.joined.asked)
            probed = [made for made in sides.outputs.judged_once() if made.judgements]
        else:
            scored = with_scores(methods, judge, settings)
            sides = sides_of(scored, asked.opponent)
            by_this = all(method.judge == settings.describe() for method in scored)
            probed = sides.outputs.judged_once() if by_this else []
        rows, kept = rows_by_id(sides.joined.asked), asked.out
        return sides, probe_judge(judge, probed, sides.outputs.opponent, rows, asked.probes, kept)


def _counts(joined: Joined) -> SplitCounts:
    every = len({key for group in joined.rows for key in group})
    kept = len(joined.keys)
    return SplitCounts(read=every, kept=kept, dropped={"not in every source": every - kept} if every > kept else {})


def _provenance(asked: Asked, seeds: Sequence[int]) -> Provenance:
    labels = None if asked.labels is None else str(asked.labels)
    settings = {
        "map": ", ".join(asked.mapping), "opponent": asked.opponent, "judge": asked.judge, "labels": labels,
        "clusters": NEAR_DUPLICATES if asked.near_duplicates else None,
    }  # fmt: skip
    return Provenance(
        command=command_line(),
        date=today(),
        data=[
            Source(
                role="evaluated",
                name=without_secrets(source),
                hash=hash_source(str(parts_of(source)[1]), nested=True),
            )
            for source in asked.sources
        ],
        settings=[Setting(name=name, value=without_secrets(value)) for name, value in settings.items() if value],
        versions={"python": platform.python_version(), "trimtab": __version__},
        seeds=list(seeds),
    )


def _write(results: Results, outputs: StudyOutputs, out: Path) -> None:
    from trimtab.report.answers import write_answers
    from trimtab.report.render import write_report  # loads matplotlib: after what is wrong with the sources

    with holding(out):
        results.write(out / "results.json")
        write_answers(outputs, out)
        write_report(results, out)
