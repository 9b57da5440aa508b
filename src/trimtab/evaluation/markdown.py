"""Text of others in Markdown."""

from __future__ import annotations

import re


def escape_markdown(text: str) -> str:
    """Text as it is, in a line or a cell of a table: no markup, no HTML, no new line."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + ch if ch in "\\`*_{}[]#|~$!" else ch for ch in flat)


def fenced(text: str, kind: str = "") -> str:
    """A block of code that no line of the text can close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"
