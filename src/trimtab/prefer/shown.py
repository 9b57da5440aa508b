"""Texts of models as a page shows them: whatever they hold, they stay text.

Markdown becomes HTML by markdown-it-py: markup in it is escaped, an image is shown as the text that asks for it,
and of links only those to the web and to mail addresses are links. What no screen shows is drawn: control
characters as their pictures (U+2400 to U+2421), half a surrogate pair as U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt

from trimtab.json_types import JsonObject

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.rules_core import StateCore
    from markdown_it.token import Token

LONGEST, LINES, CELLS = 150_000, 5_000, 10_000
"""Characters, lines and bars of a table in a text that is rendered; one with more is shown raw."""
MARKS = 1500
"""Characters of one paragraph that may begin or end something. markdown-it's time grows with their square; where
there are more, the text is shown raw."""
KEPT = 512
"""Texts whose HTML is kept: as many as stand in the windows of some persons."""

_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_LINKS = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_MARK = re.compile(r"[\[\]!*_`~<&(\\]")
_DIRECTED = {"paragraph_open", "heading_open", "list_item_open", "th_open", "td_open", "blockquote_open"}


def visible(text: str) -> str:
    """The text with pictures for what would not be seen. Line ends become \\n."""
    text = text.replace("\r\n", "\n").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.translate(_PICTURES)


def shown(text: str) -> JsonObject:
    """What the page needs of a text. html: its Markdown rendered, None where that would take long. note: what is
    said in its place where there is nothing to read."""
    raw = visible(text)
    note = ""
    if not text:
        note = "(empty)"
    elif not text.strip():
        note = f"(only white space: {len(text)} characters)"
    return {"raw": raw, "html": rendered(raw), "note": note}


def shown_prompt(prompt: str, messages: str) -> JsonObject:
    """A prompt: its last turn, and those before it. messages: the conversation as JSON."""
    turns = _turns(messages)
    if not turns:
        return {"turns": [{"role": "user", **shown(prompt)}]}
    return {"turns": [{"role": role, **shown(content)} for role, content in turns]}


def _turns(messages: str) -> Sequence[tuple[str, str]]:
    """The turns that hold text, of a conversation or of a prompt that is text; () where it is neither."""
    try:
        read = json.loads(messages)
    except ValueError:
        return ()
    if isinstance(read, str):
        return (("user", read),)
    if not isinstance(read, list):
        return ()
    return [
        (str(turn.get("role", "user")), turn["content"])
        for turn in read
        if isinstance(turn, dict) and isinstance(turn.get("content"), str)
    ]


@lru_cache(maxsize=KEPT)
def rendered(text: str) -> str | None:
    """The Markdown of a text as HTML, without scripts, images, or any address that is loaded. None where it would
    take long."""
    if len(text) > LONGEST or text.count("\n") > LINES or text.count("|") > CELLS:
        return None
    markdown = _markdown()
    try:
        tokens = markdown.parse(text)
    except _TangledError:
        return None
    for token in tokens:
        if token.type in _DIRECTED:
            token.attrSet("dir", "auto")
        if "style" in token.attrs:  # of a column that is centred; the page's policy allows no styles in elements
            token.attrSet("class", str(token.attrs.pop("style")).replace("text-align:", "to-"))
        if token.type in ("heading_open", "heading_close"):  # below those of the page
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
    return str(markdown.renderer.render(tokens, markdown.options, {}))


class _TangledError(Exception):
    pass


def _refuse_tangled(state: StateCore) -> None:
    for token in state.tokens:
        if token.type == "inline" and len(token.content) > MARKS and len(_MARK.findall(token.content)) > MARKS:
            raise _TangledError


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    # A line that a model broke stays broken: people judge what was written.
    made = MarkdownIt("js-default", {"html": False, "linkify": False, "typographer": False, "breaks": True})
    made.validateLink = lambda url: bool(_LINKS.match(url))  # type: ignore[method-assign]
    made.core.ruler.before("inline", "refuse_tangled", _refuse_tangled)
    for name, rule in _RULES.items():
        made.add_render_rule(name, rule)
    return made


def _link(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    tokens[place].attrSet("rel", "noopener noreferrer nofollow")
    tokens[place].attrSet("target", "_blank")
    return self.renderToken(tokens, place, options, env)


def _image(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    image = tokens[place]
    title = f' "{image.attrs["title"]}"' if image.attrs.get("title") else ""
    written = f"![{image.content}]({image.attrs.get('src', '')}{title})"
    return f'<span class="image">{escape(written)}</span>'


def _code(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    language = token.info.split()[0] if token.info.strip() else ""
    label = escape(f"code, {language}" if language else "code")
    box = f'<pre dir="ltr" tabindex="0" role="group" aria-label="{label}">'
    return f"{box}<code>{escape(token.content)}</code></pre>\n"


def _table_open(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    return '<div class="wide" tabindex="0" role="group" aria-label="table"><table>\n'


def _table_close(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


_RULES = {
    "link_open": _link, "image": _image, "fence": _code, "code_block": _code,
    "table_open": _table_open, "table_close": _table_close,
}  # fmt: skip
