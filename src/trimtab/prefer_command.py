"""`trimtab prefer`: its options, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trimtab.stopping import Stopped


def prefer_command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_OR_FILES",
            help="A study's folder, files of completions, or a preference file: whatever compare takes.",
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(metavar="dpo,sft", help="Whose answers are shown; two are shown beside each other."),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Every two methods, not each beside the opponent.")
    ] = False,
    opponent: Annotated[str | None, typer.Option(metavar="NAME", help="The method that others are beside.")] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=COLUMN", help="What columns are called.")
    ] = None,
    for_training: Annotated[
        bool,
        typer.Option("--for-training", help="The closest pairs first: to train on, and in no estimate."),
    ] = False,
    per_item: Annotated[int, typer.Option(min=1, max=1000, help="People that judge each item.")] = 2,
    votes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where votes are kept: RUN/votes.sqlite without it.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets others of your network in, who need the token that is printed.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="8017, or the next that is free; 0: any.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Models that answer prompts of one's own, two or more; a study's without it."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Of such an answer at most.")] = 512,
    report: Annotated[
        Path | None,
        typer.Option(metavar="VOTES", help="Say what a file of votes says, beside the judge of RUN_OR_FILES."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --report: one JSON object alone.")] = False,
    export: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Write votes as trl, kto, openai, lmarena, label-studio or argilla."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --export: the file to write.")] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="PERSON", help="With --export: whose votes are left out.")
    ] = None,
) -> None:
    """People judge: a page that shows two answers, blind, and keeps which one is better."""
    if report is not None:
        _report(report, sources or (), opponent, mapping or (), as_json)
        return
    if export is not None or out is not None or without:
        _export(sources or (), export, out, without or ())
        return
    from trimtab.chat.settings import ChatSettings
    from trimtab.prefer.run import Asked, check, run

    named = [word.strip() for text in methods or () for word in text.split(",") if word.strip()]
    asked = Asked(
        sources or (), named, "all" if all_pairs else "opponent", opponent, mapping or (), for_training, per_item,
        votes, host, port, opens, models or (), ChatSettings(max_new_tokens=max_new_tokens),
    )  # fmt: skip
    check(asked)
    try:
        run(asked)
    except KeyboardInterrupt as stop:
        code = stop.exit_code if isinstance(stop, Stopped) else 128 + signal.SIGINT
        # Ctrl-C is how it ends; another signal is told as what it was.
        raise typer.Exit(0 if code == 128 + signal.SIGINT else code) from None


def _report(
    votes: Path, sources: Sequence[str], opponent: str | None, mapping: Sequence[str], as_json: bool
) -> None:
    from trimtab.prefer.numbers import report_votes
    from trimtab.show import print_table

    found = report_votes(votes, sources, opponent=opponent, mapping=mapping)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
        return
    for line in [*found.sentences, *(f"Warning: {line}" for line in found.warnings)]:
        print(line)
    for table in found.tables:
        print_table(table, table.caption)


def _export(sources: Sequence[str], format_name: str | None, out: Path | None, without: Sequence[str]) -> None:
    from trimtab.errors import TrimtabError
    from trimtab.prefer.exports import FORMATS, export_votes

    if format_name is None or out is None or len(sources) != 1:
        formats = ", ".join(FORMATS)
        raise TrimtabError(f"--export FORMAT --out FILE votes.sqlite: name all three. Formats: {formats}.")
    written = export_votes(Path(sources[0]), format_name, out, without)
    even = f"; of {written.even} items persons are even, and they have no row" if written.even else ""
    print(f"{out}: {written.rows} rows{even}.")
