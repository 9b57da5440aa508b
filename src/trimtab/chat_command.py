"""`trimtab chat`: its options, and what they set."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.options import Set, Tokenizer


def chat_command(
    model: Annotated[str, typer.Argument(help="Hugging Face folder, adapter or hub name.")],
    other: Annotated[str | None, typer.Argument(metavar="[MODEL2]", help="A second one, asked the same.")] = None,
    tokenizer: Tokenizer = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the likeliest tokens, up to this share.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Only so many of the likeliest tokens; 0: all.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
    settings: Set = None,
) -> None:
    """Talk with a model, or with two side by side; by default each decodes as it is meant to."""
    from trimtab.study.asked import chat_asked

    given = {
        "temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens, "seed": seed,
    }  # fmt: skip
    value = {name: setting for name, setting in given.items() if setting is not None}
    chat_asked([model, *([other] if other else [])], tokenizer, value, settings or ())
