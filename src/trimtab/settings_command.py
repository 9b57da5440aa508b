"""`trimtab settings`: the command. What it prints is made when asked for, so that other commands start at once."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from trimtab.show import print_table


def settings_command(
    key: Annotated[str, typer.Argument(help="Whose: dpo, dpo.lora, judge.nemotron; nothing for a recipe's.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="All of them, as docs/settings.md.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="A JSON schema of recipes, for editors.")] = False,
) -> None:
    """Every setting with its type, its default and a sentence."""
    from trimtab.recipe_schema import recipe_schema
    from trimtab.settings_list import settings_markdown, settings_table

    if schema:
        print(json.dumps(recipe_schema(), ensure_ascii=False, indent=1))
    elif markdown:
        print(settings_markdown(), end="")
    else:
        table = settings_table(key)
        print_table(table, table.caption)
