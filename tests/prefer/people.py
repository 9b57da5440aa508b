"""People in a real browser: Chromium, driven by Playwright, votes by keys or by touch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from trimtab.data.vote_file import CastVote, read_votes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "both good": "ArrowUp", "both bad": "ArrowDown", "skip": "s"}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2,
}  # fmt: skip
PATIENCE = 120_000
"""Milliseconds that are waited for: the machine may be busy."""
SOON = 300
"""Milliseconds after which a vote counts: sooner is a key that bounces."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's own; Playwright's package brings none."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Seen:
    """What a person saw and said."""

    item: str
    repeated: bool
    left: str
    right: str
    verdict: str


class Person:
    """One person at one page. errors: what the browser complained of. outside: requests to anywhere else."""

    def __init__(
        self, context: BrowserContext, address: str, name: str, touch: bool = False, path: str = "/"
    ) -> None:
        self.context, self.address, self.name, self.touch = context, address, name, touch
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.seen: list[Seen] = []
        self.page = self.tab(path)

    def tab(self, path: str = "/") -> Page:
        """Another tab of the same browser."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self._look(request.url))
        page.goto(self.address + path)
        if page.locator("#who").is_visible():
            page.fill("#name", self.name)
            page.click("#who button")
        return page

    def _look(self, url: str) -> None:
        if urlsplit(url).hostname not in ("127.0.0.1", "localhost"):
            self.outside.append(url)

    def ready(self, page: Page | None = None) -> str:
        """Waits for an item, and until a vote on it counts; returns its id."""
        page = page or self.page
        page.wait_for_selector("main[data-item]")
        page.wait_for_timeout(SOON)
        return str(page.get_attribute("main", "data-item"))

    def vote(self, verdict: str, page: Page | None = None) -> Seen:
        page = page or self.page
        item = self.ready(page)
        made = Seen(
            item, page.get_attribute("main", "data-repeated") == "true", page.inner_text("#left"),
            page.inner_text("#right"), verdict,
        )  # fmt: skip
        if self.touch:
            page.tap(f'[data-verdict="{verdict}"]')
        else:
            page.keyboard.press(KEYS[verdict])
        page.wait_for_function(
            "(was) => { const { item, repeated } = document.querySelector('main').dataset;"
            " return `${item} ${repeated}` !== was; }",
            arg=f"{made.item} {'true' if made.repeated else 'false'}",
        )
        self.seen.append(made)
        return made

    def undo(self, page: Page | None = None) -> None:
        page = page or self.page
        if self.touch:
            page.tap("#undo")
        else:
            page.keyboard.press("u")

    def sent(self, page: Page | None = None) -> None:
        """Waits until nothing waits."""
        (page or self.page).wait_for_selector('body[data-waiting="0"][data-reachable="true"]')


def assert_kept(votes: Path, *people: Person) -> list[CastVote]:
    """Every vote is in the file once, in order, with the sides that its person saw; and nothing else is."""
    kept = read_votes(votes)
    for person in people:
        theirs = [vote for vote in kept if vote.person == person.name]
        assert [(vote.item.id, vote.repeated, vote.verdict) for vote in theirs] == [
            (seen.item, seen.repeated, seen.verdict) for seen in person.seen
        ]
        for vote, seen in zip(theirs, person.seen, strict=True):
            texts = [vote.item.first_completion, vote.item.second_completion]
            left, right = reversed(texts) if vote.swapped else texts
            assert (seen.left, seen.right) == (_plain(left), _plain(right))
            assert vote.milliseconds is not None
            assert vote.milliseconds >= SOON - 50
        assert not person.errors
        assert not person.outside
    assert {vote.person for vote in kept} <= {person.name for person in people}
    return kept


def _plain(text: str) -> str:
    """The text of a made item as it is read."""
    return text.replace("*", "")
