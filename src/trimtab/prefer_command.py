"""`trimtab prefer`: its options, and how it ends."""

from __future__ import annotations

import signal
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
) -> None:
    """People judge: a page that shows two answers, blind, and keeps which one is better."""
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
