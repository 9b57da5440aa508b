"""`trimtab compare`: its options, what it prints, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.rewards.kinds import NAMES

if TYPE_CHECKING:
    from trimtab.comparing.run import Compared

EXIT_CODES = {"hurt": 3, "undecided": 4, "helped": 5}
"""Of an outcome that --fail-if names. 1 is an error, 2 a wrong option."""


def compare_command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A B …",
            help="Folders of a study, evaluate or generate; files of rows; outputs of other tools. The others are "
            "set beside the first. NAME=PATH names one, PATH:METHOD takes one of several.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for results.json, report and tables.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=COLUMN", help="What columns are called: prompt=question,score=reward."),
    ] = None,
    opponent: Annotated[
        str | None, typer.Option("--opponent", metavar="NAME", help="The method that win rates are against.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help=f"Who scores what has no scores: {NAMES}.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="People's labels of some answers, with which the judge is corrected."),
    ] = None,
    judge_probes: Annotated[
        int | None,
        typer.Option(
            "--judge-probes",
            min=0,
            metavar="N",
            help="Answers that the judge is asked about again, for its card: 100, or 20 of one on a server.",
        ),
    ] = None,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="Prompts that are nearly the same are one in intervals.")
    ] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="OUTCOME",
            help="hurt (exit code 3), undecided (4) or helped (5); several with commas. Without it 0 whatever "
            "comes out.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Say what gain --prompts and --seeds will show, from the sources as a pilot, or without any from "
            "assumptions. Nothing is written.",
        ),
    ] = False,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="With --plan: test prompts. As many as the sources share, without it.")
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="3", help="With --plan: training seeds, how many or which.")] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Completions, scores or preferences of any origin: did it help? Needs no model."""
    from trimtab.command_settings import seed_count

    failing = _check(sources or (), mapping or (), judge, labels, fail_if or ())
    count = seed_count(seeds)
    _check_plan(sources or (), plan, prompts, count, bool(out or fail_if or as_json))
    if not sources:
        _print_plan(None, prompts, count)
        return
    from trimtab.comparing.run import Asked, compare_sources

    place = None if plan else out
    asked = Asked(
        sources, mapping or (), opponent, judge, 0 if plan else judge_probes, place, labels=labels,
        near_duplicates=near_duplicates,
    )  # fmt: skip
    compared = compare_sources(asked)
    if plan:
        _print_plan(compared, prompts, count)
        return
    if as_json:
        print(json.dumps(compared.as_json(), ensure_ascii=False, indent=2))
    else:
        _print(compared, out)
    if compared.outcome in failing:
        raise typer.Exit(EXIT_CODES[compared.outcome])


def _check(
    sources: Sequence[str], mapping: Sequence[str], judge: str | None, labels: Path | None, words: Sequence[str]
) -> set[str]:
    """The outcomes that --fail-if names. TrimtabError for what is wrong, before anything is loaded that takes
    time."""
    from trimtab.errors import TrimtabError
    from trimtab.readers.columns import mapping_of
    from trimtab.readers.formats import check_sources
    from trimtab.readers.labels import check_labels
    from trimtab.rewards.settings import reward_named

    named = {word.strip() for text in words for word in text.split(",")}
    if wrong := sorted(named - EXIT_CODES.keys()):
        raise TrimtabError(f"--fail-if {wrong[0]}: known are {', '.join(EXIT_CODES)}.")
    mapping_of(mapping)
    check_sources(sources)
    check_labels(labels)
    if judge is not None:
        reward_named(judge)
    return named


def _check_plan(sources: Sequence[str], plan: bool, prompts: int | None, seeds: int, writes: bool) -> None:
    """TrimtabError for options of a plan without one, or with one what it has not, and for nothing to plan by."""
    from trimtab.errors import TrimtabError

    if not plan and (prompts is not None or seeds != 1):
        raise TrimtabError("--prompts and --seeds are of --plan: a comparison takes what its sources have.")
    if plan and writes:
        raise TrimtabError("--plan prints lines and nothing else: leave out --out, --json and --fail-if.")
    if not sources and not plan:
        raise TrimtabError("nothing to compare. Name two sources: trimtab compare A B.")
    if not sources and prompts is None:
        raise TrimtabError("--plan: say how many prompts, as in --prompts 300, or name the sources of a pilot.")


def _print_plan(compared: Compared | None, prompts: int | None, seeds: int) -> None:
    """What so many prompts and seeds show. compared: the pilot; without one two methods, one against the other."""
    from trimtab.plan.power import power_lines

    if compared is None:
        lines = power_lines(prompts or 0, 2, seeds, against_opponent=True)
    else:
        results = compared.results.model_copy(update={"name": "these sources"})
        methods = len(results.methods) if len(results.methods) > 1 else 2
        joined = prompts or results.data["joined"].kept
        alone = len(results.methods) == 1
        lines = power_lines(joined, methods, seeds, results, against_opponent=alone)
    for line in lines:
        print(line)


def _print(compared: Compared, out: Path | None) -> None:
    from trimtab.report.people_tables import agreement_table, people_table, voters_table
    from trimtab.show import print_results, print_table

    print_results(compared.results, compared.said)
    for outcome in compared.outcomes:
        why = f" ({outcome.why})" if outcome.why else ""
        print(f"Outcome of {outcome.method} against {outcome.against}: {outcome.outcome}{why}")
    for table in (
        people_table(compared.results),
        agreement_table(compared.results),
        voters_table(compared.results),
    ):
        if table.rows:
            print_table(table, table.caption)
    if out is not None:
        print(f"Report: {out / 'report.html'}")
