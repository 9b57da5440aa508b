"""The template engine, with every text escaped."""

from __future__ import annotations

import re
from functools import cache
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trimtab.report.table_files import to_csv, to_tex


def keep_together(text: str) -> str:
    """No line break between a number and its per cent sign, around "p = ", or inside "BLEU-4"."""
    text = re.sub(r"(?<=\d) (?=%)|(?<=\b[pn]) (?=[=<])|(?<=\b[pn] [=<]) (?=\d)", "\u00a0", text)
    return text.replace("BLEU-", "BLEU\u2011")


def data_address(text: str, media_type: str) -> str:
    """A data: address that holds the text itself, so that a link to it saves a file without a server."""
    return f"data:{media_type};charset=utf-8,{quote(text)}"


@cache
def environment() -> Environment:
    """autoescape=True, not by file name: the templates' names end in .j2."""
    made = Environment(
        loader=PackageLoader("trimtab.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"keep_together": keep_together, "data_address": data_address}
    made.filters |= {"to_csv": to_csv, "to_tex": to_tex}
    return made


def render(template: str, **values: object) -> Markup:
    """A template of this folder, filled."""
    return Markup(environment().get_template(template).render(**values))


def source(name: str) -> str:
    """A file of this folder, as it is."""
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0]
