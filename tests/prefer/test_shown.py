"""Whatever a completion holds, it stays text, and legible."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.prefer.shown import CELLS, LINES, LONGEST, MARKS, rendered, shown, shown_prompt, visible

TAGS = {
    "p", "br", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr",
    "a", "span", "div", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {"dir", "class", "href", "title", "rel", "target", "start", "tabindex", "role", "aria-label"}


class Tags(HTMLParser):
    """The elements of some HTML with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(html: str) -> Tags:
    made = Tags(html)
    for tag, attributes in made.tags:
        assert tag in TAGS, tag
        assert set(attributes) <= ATTRIBUTES
        assert re.fullmatch(
            r"(https?://|mailto:).*", attributes.get("href") or "http://", re.DOTALL | re.IGNORECASE
        )
        if tag == "a":
            assert attributes["rel"] == "noopener noreferrer nofollow"
    return made


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</div></main><iframe src=//evil.example>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>1</script>)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](//evil.example) [w](relative)",
    '![x](http://evil.example/i.png "t\\" onerror=\\"alert(1)")',
    "![x][1]\n\n[1]: http://evil.example/i.png",
    '```"><script>alert(1)</script>\nx\n```',
    '<http://a.example/"onclick=alert(1)>',
    "&lt;script&gt; &#60;script&#62;",
    "| <b>a</b> | b |\n|:-:|--:|\n| <i>1</i> | `<script>` |",
    "<style>*{display:none}</style>",
    "[a](http://e.example 'x\" style=\"position:fixed')",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_stays_text(text: str) -> None:
    html = rendered(text)
    assert html is not None
    assert_harmless(html)


pieces = st.sampled_from(
    ["<script>", "</p>", "![", "](", ")", "[", "]", "javascript:x", "http://a.b", '"', "'", "`", "```\n", "*", "_",
     "~~", "\n", "\n\n", "- ", "> ", "# ", "|", "|-|-|\n", "<img src=x onerror=y>", "&amp;", "\\", "\x00", "a", " ",
     "]: "]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=25).map("".join))
def test_any_markdown_is_harmless(text: str) -> None:
    assert_harmless(rendered(visible(text)) or "")


def test_what_is_written_is_there() -> None:
    made = assert_harmless(
        rendered("# One\n\n**two** `three`\nfour\n\n```py\nfive = 1\n```\n\n- שלום\n\n|a|\n|-|\n|six|") or ""
    )
    assert made.text.split() == ["One", "two", "three", "four", "five", "=", "1", "שלום", "a", "six"]
    tags = dict(made.tags)
    assert "h3" in tags
    assert "h1" not in tags
    assert "br" in tags, "a line that was broken stays broken"
    assert tags["li"] == {"dir": "auto"}
    assert tags["pre"]["dir"] == "ltr"
    assert tags["div"]["tabindex"] == "0", "a wide table is scrolled by keys"


def test_an_image_is_shown_as_the_text_that_asks_for_it() -> None:
    assert "![a cat](http://e.example/cat.png)" in Tags(rendered("![a cat](http://e.example/cat.png)") or "").text


@pytest.mark.parametrize(
    ("text", "raw", "note"),
    [
        ("", "", "(empty)"),
        (" \n\t ", " \n\t ", "(only white space: 4 characters)"),
        ("a\x00b\x1b[31mc\x7f\x9bd", "a␀b␛[31mc␡\ufffdd", ""),
        ("a\r\nb\rc", "a\nb␍c", ""),
        ("half \ud83d pair", "half \ufffd pair", ""),
        ("whole \U0001f600", "whole \U0001f600", ""),
        ("שלום עולם", "שלום עולם", ""),
    ],
)
def test_what_would_not_be_seen_is(text: str, raw: str, note: str) -> None:
    found = shown(text)
    assert (found["raw"], found["note"]) == (raw, note)
    str(found["html"]).encode("utf-8")


@pytest.mark.parametrize("mark", ["*", "[", "(", "&"])
def test_a_paragraph_of_very_many_marks_is_shown_raw(mark: str) -> None:
    """Each stands alone here, where it begins nothing: this is parsed at once, others of its kind are not."""
    marks = f"word {mark} " * MARKS
    assert "word" in (rendered(marks) or "")
    assert rendered(f"{marks}word {mark} ") is None
    assert shown(f"{marks}word {mark} ")["raw"].startswith(f"word {mark}")


@pytest.mark.parametrize(
    ("line", "most"), [("x" * 100 + "\n", LONGEST // 101), ("- x\n", LINES), ("|x|y|\n", CELLS // 3)]
)
def test_what_is_very_long_is_shown_raw(line: str, most: int) -> None:
    assert rendered(line * most) is not None
    assert rendered(line * (most + 2)) is None


def test_twenty_thousand_tokens_are_rendered() -> None:
    text = "\n\n".join(
        f"Paragraph {i} with *some* words and `code` in it, twenty of them or so." for i in range(1400)
    )
    assert len(text) > 90_000
    assert "Paragraph 1399" in (rendered(text) or "")


def test_a_prompt_is_its_whole_conversation() -> None:
    turns = '[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "*Hi*"}]'
    made = shown_prompt("Hi", turns)["turns"]
    assert [(turn["role"], turn["raw"]) for turn in made] == [("system", "Be kind."), ("user", "*Hi*")]
    for messages in ("[]", "none", "{}", "[1]"):
        assert [turn["raw"] for turn in shown_prompt("Hi", messages)["turns"]] == ["Hi"]
    assert shown_prompt("Hi", '"as text"')["turns"][0]["raw"] == "as text"
