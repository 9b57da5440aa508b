"""The page in Chromium: people vote at once, reload, go back, open tabs, lose the connection and the server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from prefer.made import Process, item, page, two_sources
from prefer.people import CHROMIUM, PHONE, Person, assert_kept, chromium
from prefer.test_own import Asking
from trimtab.data.vote_file import read_votes

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
VERDICTS = ("left", "right", "both good", "left", "both bad", "right", "skip")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.slow
def test_three_people_vote_at_once_by_keys_and_by_touch(browser: Browser, tmp_path: Path) -> None:
    with page(tmp_path / "votes.sqlite", [item(i) for i in range(60)], per_item=3) as running:
        people = [
            Person(browser.new_context(), running.address, "Ada"),
            Person(browser.new_context(color_scheme="dark"), running.address, "Grace"),
            Person(browser.new_context(**PHONE), running.address, "Émilie", touch=True),
        ]
        for verdict in islice(cycle(VERDICTS), 18):
            for person in people:
                person.vote(verdict)
        for person in people:
            person.sent()
        kept = assert_kept(running.votes, *people)
        assert len(kept) == 54
        for person in people:
            theirs = [vote for vote in kept if vote.person == person.name]
            assert {vote.swapped for vote in theirs} == {True, False}
        orders = [[seen.item for seen in person.seen] for person in people]
        assert len({tuple(order) for order in orders}) == 3, "everybody meets items in another order"
        for person in people:
            person.context.close()


def test_reload_back_two_tabs_and_undo_across_a_reload(browser: Browser, tmp_path: Path) -> None:
    with page(tmp_path / "votes.sqlite", [item(i) for i in range(40)]) as running:
        ada = Person(browser.new_context(), running.address, "Ada")
        ada.vote("left")
        ada.vote("right")
        ada.sent()
        shown = ada.ready()
        ada.page.reload()
        assert ada.ready() == shown, "a page that is loaded anew goes on where it was"
        assert not ada.page.locator("#who").is_visible(), "the name is known"

        ada.undo()
        ada.page.wait_for_selector(f'main[data-item="{ada.seen[1].item}"]')
        taken_back = ada.seen.pop()
        assert ada.page.inner_text("#left") == taken_back.left
        ada.page.reload()
        assert ada.vote("both good").item == taken_back.item
        ada.sent()

        ada.page.goto(f"{running.address}/numbers")
        assert "Ada" in ada.page.inner_text("main")
        ada.page.go_back()
        assert ada.ready() == shown

        other = ada.tab()
        assert ada.ready(other) == shown, "both tabs show the same"
        ada.vote("left", other)
        ada.page.wait_for_selector(f'main:not([data-item="{shown}"])')
        assert ada.page.inner_text("#said") == "That one was judged in another tab."
        ada.sent(other)
        ada.undo()
        ada.page.wait_for_selector(f'main[data-item="{shown}"]')
        ada.seen.pop()
        ada.vote("both bad")
        ada.sent()
        assert_kept(running.votes, ada)
        undone = running.ballot.counts()["Ada"]
        assert undone == 3
        ada.context.close()


def test_a_tab_that_knows_of_no_other_adds_no_second_vote(browser: Browser, tmp_path: Path) -> None:
    with page(tmp_path / "votes.sqlite", [item(i) for i in range(40)]) as running:
        ada = Person(browser.new_context(), running.address, "Ada")
        elsewhere = Person(browser.new_context(), running.address, "Ada")  # her phone, say
        assert ada.ready() == elsewhere.ready()
        ada.vote("left")
        ada.sent()
        elsewhere.vote("right")
        elsewhere.page.wait_for_function(
            "() => document.querySelector('#said').textContent.includes('first vote stays')"
        )
        assert_kept(running.votes, ada)
        ada.context.close()
        elsewhere.context.close()


def test_votes_wait_while_the_connection_is_gone_and_are_sent_once(browser: Browser, tmp_path: Path) -> None:
    with page(tmp_path / "votes.sqlite", [item(i) for i in range(40)]) as running:
        ada = Person(browser.new_context(**PHONE), running.address, "Ada", touch=True)
        ada.vote("left")
        ada.sent()
        ada.context.set_offline(True)
        for verdict in ("right", "both bad", "left"):
            ada.vote(verdict)
        ada.undo()
        ada.page.wait_for_selector(f'main[data-item="{ada.seen[-1].item}"]')
        ada.seen.pop()
        ada.vote("right")
        ada.page.wait_for_selector('body[data-reachable="false"]')
        assert ada.page.inner_text("#connection") == "No connection: 5 votes wait here and will be sent."
        assert len(read_votes(running.votes)) == 1
        ada.context.set_offline(False)
        ada.sent()
        ada.errors = [said for said in ada.errors if "ERR_INTERNET_DISCONNECTED" not in said]
        assert len(assert_kept(running.votes, ada)) == 4
        assert ada.page.inner_text("#connection") == ""
        ada.context.close()


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    return two_sources(tmp_path, 40)


def test_a_server_that_is_killed_loses_and_doubles_nothing(
    browser: Browser, sources: list[str], tmp_path: Path
) -> None:
    votes = tmp_path / "votes.sqlite"
    first = Process(*sources, "--votes", str(votes), "--port", "0")
    ada = Person(browser.new_context(), first.address.rstrip("/"), "Ada")
    with ada.page.expect_response("**/api/votes"):
        ada.vote("left")
    first.end(signal.SIGKILL)
    ada.vote("right")
    ada.vote("both bad")
    ada.page.wait_for_selector('body[data-reachable="false"]')
    second = Process(*sources, "--votes", str(votes), "--port", str(first.port))
    ada.sent()
    ada.vote("both good")
    ada.sent()
    ada.errors = [said for said in ada.errors if "ERR_CONNECTION_REFUSED" not in said]
    assert_kept(votes, ada)
    assert second.end(signal.SIGINT)[0] == 0
    ada.context.close()


HOSTILE = (
    '<script>document.title = "hacked"</script><img src="http://evil.example/a.png" onerror="document.title = 1">'
    "![x](http://evil.example/b.png) [link](http://evil.example) <iframe src=http://evil.example></iframe>\n\n"
    "</div></main><style>* { display: none }</style>"
)
WIDE = (
    f"| {' | '.join(f'column {i}' for i in range(40))} |\n|{'-|' * 40}\n\n```\n{'code ' * 300}\n```\n\n{'x' * 5000}"
)
ODD = [
    (HOSTILE, HOSTILE[::-1]),
    (WIDE, " \n\t "),
    ("\x00\x1b[31m red \x07", "مرحبا *بك* في `code`\n\n- שלום"),
    ("word " * 20_000, "\n\n".join(f"Paragraph {i} of words and more words." for i in range(2500))),
]


@pytest.mark.parametrize(
    "size", [{"width": 360, "height": 640}, {"width": 1280, "height": 800}], ids=["phone", "desktop"]
)
def test_whatever_a_completion_holds_it_is_text_and_legible(
    browser: Browser, tmp_path: Path, size: dict[str, int]
) -> None:
    items = [item(i, a, b, prompt=a[:3000]) for i, (a, b) in enumerate(ODD)]
    with page(tmp_path / "votes.sqlite", items) as running:
        ada = Person(browser.new_context(viewport=size), running.address, "Ada")  # type: ignore[arg-type]
        texts = {}
        for _ in ODD:
            shown = ada.ready()
            here = ada.page
            assert here.evaluate("document.documentElement.scrollWidth") <= size["width"], "nothing sticks out"
            assert here.evaluate("document.documentElement.scrollHeight") <= size["height"]
            for name in ("#left", "#right", *(f'[data-verdict="{v}"]' for v in ("left", "right", "skip"))):
                box = here.locator(name).bounding_box()
                assert box is not None
                assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"]  # noqa: PT018
                assert box["y"] + box["height"] <= size["height"]
                assert box["height"] >= (44 if "verdict" in name else 60)
            assert here.evaluate("document.querySelectorAll('#task :is(script, img, iframe, style)').length") == 0
            texts[shown] = here.inner_text("#left") + here.inner_text("#right")
            here.keyboard.press("r")
            raw = here.inner_text("#left") + here.inner_text("#right")
            if shown == "item-0000":
                assert "<script>" in raw and "</main><style>" in raw  # noqa: PT018
            here.keyboard.press("r")
            here.keyboard.press("s")
            here.wait_for_selector(f'main:not([data-item="{shown}"])')
        assert "<script>" in texts["item-0000"]
        assert "![x](http://evil.example/b.png)" in texts["item-0000"]
        assert "(only white space: 4 characters)" in texts["item-0001"]
        assert "␀␛[31m red ␇" in texts["item-0002"]
        assert "Paragraph 2499" in texts["item-0003"]
        assert here.title() == "Which answer is better? · trimtab"
        assert not ada.errors
        assert not ada.outside
        ada.context.close()


def test_a_hand_can_reach_and_a_reader_can_hear_it(browser: Browser, tmp_path: Path) -> None:
    with page(tmp_path / "votes.sqlite", [item(i) for i in range(2)], per_item=1) as running:
        ada = Person(browser.new_context(**PHONE), running.address, "Ada", touch=True)
        ada.ready()
        here = ada.page
        for button in here.locator("button:visible").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44, button.inner_text()
            assert box["x"] + box["width"] <= 360, button.inner_text()
        assert here.evaluate("document.activeElement.id") == "asked-title", "what is read first is the prompt"
        here.tap("#why summary")
        here.check("[value=clearer]")
        here.fill("#note", "s u d r: letters are no keys here")
        ada.vote("left")
        assert here.inner_text("#said") == "A is better. Here is the next one."
        assert here.evaluate("document.activeElement.id") == "asked-title"
        assert here.input_value("#note") == ""
        ada.vote("right")
        here.wait_for_selector("#done:visible")
        assert here.inner_text("#done p") == "You have judged 2 items."
        assert here.evaluate("document.activeElement.id") == "done-title"
        assert not here.locator('[data-verdict="left"]').is_visible()
        ada.undo()
        ada.page.wait_for_selector("main[data-item]")
        ada.seen.pop()
        ada.vote("both good")
        ada.sent()
        kept = assert_kept(running.votes, ada)
        assert (kept[0].reasons, kept[0].note) == ('["clearer"]', "s u d r: letters are no keys here")
        ada.context.close()


def test_words_that_differ_and_scrolling_together(browser: Browser, tmp_path: Path) -> None:
    texts = ["\n\n".join(f"Line {i} has a {word}." for i in range(n)) for word, n in (("fox", 100), ("hare", 200))]
    with page(tmp_path / "votes.sqlite", [item(0, *texts)]) as running:
        ada = Person(browser.new_context(), running.address, "Ada")
        ada.ready()
        here = ada.page
        here.keyboard.down("d")
        marked = here.locator("#task mark").all_inner_texts()
        assert marked.count("fox") == 100
        assert marked.count("hare") == 99, "and what follows the last of them"
        here.keyboard.up("d")
        assert here.locator("#task mark").count() == 0
        share = (
            "(id) => { const p = document.getElementById(id);"
            " return p.scrollTop / (p.scrollHeight - p.clientHeight); }"
        )
        here.hover("#left")
        here.mouse.wheel(0, 1500)
        here.wait_for_function(f"() => ({share})('left') > 0.2")
        here.wait_for_timeout(200)
        assert here.evaluate(share, "right") == pytest.approx(here.evaluate(share, "left"), abs=0.01)
        here.keyboard.press("t")
        here.mouse.wheel(0, 1500)
        here.wait_for_timeout(300)
        assert here.evaluate(share, "left") > here.evaluate(share, "right") + 0.05
        here.keyboard.press("ArrowLeft", delay=600)
        here.keyboard.press("ArrowLeft")
        ada.sent()
        assert len(read_votes(running.votes)) == 1
        ada.context.close()


def test_the_token_opens_the_page_and_leaves_the_address(browser: Browser, tmp_path: Path) -> None:
    with page(tmp_path / "votes.sqlite", [item(0)], host="0.0.0.0") as running:
        assert running.served.tokens is not None
        context = browser.new_context()
        stranger = context.new_page()
        assert "holds a token" in (stranger.goto(running.address) or pytest.fail("no answer")).text()
        ada = Person(context, running.address, "Ada", path=f"/?token={running.served.tokens.judge}")
        ada.ready()
        assert running.served.tokens.judge not in ada.page.url
        ada.page.reload()
        ada.vote("left")
        ada.sent()
        assert_kept(running.votes, ada)
        assert not ada.page.get_by_role("link", name="Numbers").is_visible()
        context.close()


def test_a_prompt_of_ones_own(browser: Browser, tmp_path: Path) -> None:
    asking = Asking(tmp_path / "votes.sqlite")
    ada = Person(browser.new_context(**PHONE), asking.running.address, "Ada", touch=True)
    here = ada.page
    here.get_by_role("link", name="Your own prompt").tap()
    asking.may.clear()
    here.fill("#own-prompt", "What is a trim tab?")
    here.tap("#ask button")
    here.wait_for_function("() => document.querySelector('.state').textContent.includes('answering')")
    here.reload()
    asking.may.set()
    seen = ada.vote("right")
    assert "to What is a trim tab?" in seen.left
    ada.sent()
    [vote] = assert_kept(asking.running.votes, ada)
    assert vote.item.purpose == "own"
    assert "Your vote is kept" in here.inner_text(".state")
    asking.close()
    ada.context.close()
