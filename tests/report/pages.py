"""A page as an HTML parser reads it, and whose scripts it has."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from trimtab.report.render import page_script


class Page(HTMLParser):
    """Tags with their attributes, ids in order, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def assert_scripts_are_ours(html: str) -> None:
    """Nothing runs but the script that the page's policy names by its hash; beside it there may be data."""
    script = page_script()
    scripts = [(attributes.get("type"), tag) for tag, attributes in Page(html).tags if tag == "script"]
    assert scripts in ([(None, "script")], [("application/json", "script"), (None, "script")])
    assert re.findall(r"<script>(.*?)</script>", html, re.DOTALL) == [script]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
