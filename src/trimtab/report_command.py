"""`trimtab report`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    folder: Annotated[Path, typer.Argument(help="A study's folder, with results.json.")],
    labels: Annotated[Path | None, typer.Option("--labels", help="People's labels of some of its answers.")] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=COLUMN", help="What the labels' columns are called.")
    ] = None,
) -> None:
    """Writes report.html, tables and figures anew from results.json; with --labels, with what people say."""
    from trimtab.errors import TrimtabError
    from trimtab.study.asked import report_asked

    if labels is None:
        if mapping:
            raise TrimtabError("--map is of --labels: what the columns of people's labels are called.")
        print(f"Report: {report_asked(folder)}")
        return
    from trimtab.comparing.labelled import report_labelled

    print(f"Report: {report_labelled(folder, labels, mapping or ())}")
