"""Three people at once at one page of `trimtab prefer`, in browsers of their own: by keys, by keys in the dark, and
by touch at the width of a phone.

    PYTHONPATH=tests python benchmarks/prefer_people.py [--votes 200] [--axe axe.min.js] [--pictures FOLDER]

Now and then one of them reloads the page, or loses the connection for some votes; the server is killed twice and
started again. In the end every vote must stand in the file once, with the sides that its person saw. --axe:
axe-core's script (npm install axe-core), which then looks at the page in each of its states, with a prompt of one's
own that two models answer. --pictures: a picture of each state.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from playwright.sync_api import Error, Page

from prefer.made import Process
from prefer.people import PHONE, Person, assert_kept, chromium
from trimtab.data.vote_file import VERDICTS

LOOKS = ({}, {"color_scheme": "dark"}, PHONE)
EXPECTED = ("ERR_INTERNET_DISCONNECTED", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


def write_sources(folder: Path, items: int) -> list[str]:
    files = []
    for name in ("sft", "dpo"):
        rows = [{"prompt": f"ask {i}", "completion": f"The {name} answer to {i}."} for i in range(items)]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files.append(str(file))
    return files


def vote_on(address: str, number: int, votes: int, people: list[Person | None], failures: list[str]) -> None:
    """One person, in a browser and a thread of its own."""
    draw = random.Random(number)
    where: dict[str, str] = {}
    try:
        with chromium() as browser:
            person = Person(browser.new_context(**LOOKS[number]), address, f"person {number}", touch=number == 2)
            try:
                offline = 0
                for done in range(votes):
                    if offline == 0 and draw.random() < 0.04:
                        person.context.set_offline(True)
                        offline = draw.randint(1, 4)
                    if offline and not person.page.locator("main[data-item]").count():
                        # The server was killed before the connection went: the page has no item left to show.
                        person.context.set_offline(False)
                        offline = 0
                    person.vote(draw.choice(VERDICTS))
                    if offline:
                        offline -= 1
                        if offline == 0:
                            person.context.set_offline(False)
                    elif done % 25 == 24:
                        person.sent()
                        _reload(person)
                    elif draw.random() < 0.05:
                        person.undo()
                        person.page.wait_for_selector(f'main[data-item="{person.seen[-1].item}"]')
                        person.seen.pop()
                        person.vote(draw.choice(VERDICTS))
                person.context.set_offline(False)
                person.sent()
                person.errors = [said for said in person.errors if not any(known in said for known in EXPECTED)]
            except Exception:
                where["page"] = f"{person.page.inner_text('body')} {person.errors[-5:]}"
                raise
            people[number] = person
    except Exception as error:
        failures.append(f"person {number}: {error}\n{where.get('page', '')}")


def _reload(person: Person) -> None:
    """Loads the page anew, as soon as the server is there; again where it was killed amid the page's scripts."""
    for _ in range(60):
        try:
            person.page.goto(person.address)
            person.page.wait_for_selector("main[data-item]", timeout=5000)
        except Error:
            time.sleep(1)
        else:
            return


class Looks:
    """What axe finds in every state of the page, by its weight, and a picture of each where a folder is named."""

    def __init__(self, axe: Path | None, pictures: Path | None) -> None:
        self.script = axe.read_text(encoding="utf-8") if axe else None
        self.pictures = pictures
        self.found: Counter[str] = Counter()

    def look(self, page: Page, state: str) -> None:
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=self.pictures / f"{state}.png", full_page=True)
        if self.script is None:
            return
        page.evaluate(self.script)
        for fault in page.evaluate("() => axe.run()")["violations"]:
            self.found[str(fault["impact"])] += 1
            print(f"axe, {state}: {fault['impact']}: {fault['id']}: {fault['nodes'][0]['html'][:120]}")

    def at_all(self, address: str) -> None:
        """Wide and light, dark, and narrow: from the form for a name to the card after the last item. The page
        serves few items, and two models."""
        with chromium() as browser:
            for number, style in enumerate(LOOKS):
                context = browser.new_context(**style)
                page = context.new_page()
                page.goto(address)
                self.look(page, f"{number}-name")
                page.close()
                person = Person(context, address, f"look {number}", touch=number == 2)
                person.ready()
                self.look(person.page, f"{number}-item")
                person.page.click("#why summary")
                person.page.keyboard.press("Escape")
                person.page.keyboard.down("d")
                self.look(person.page, f"{number}-differences-reasons")
                person.page.keyboard.up("d")
                while person.page.locator("#done").is_hidden():
                    person.vote("left")
                    person.page.wait_for_selector("main[data-item], #done:not([hidden])")
                self.look(person.page, f"{number}-done")
                self._own(person, number)
                person.page.goto(f"{address}/numbers")
                person.page.wait_for_timeout(3000)
                person.page.reload()
                self.look(person.page, f"{number}-numbers")
                assert not person.errors, person.errors
                context.close()

    def _own(self, person: Person, number: int) -> None:
        page = person.page
        page.goto(f"{person.address}/side-by-side")
        page.wait_for_selector("#ask:not([hidden])")
        self.look(page, f"{number}-own")
        page.fill("#own-prompt", "Tell me of five rivers, in a list.")
        page.click("#ask button")
        person.ready()
        self.look(page, f"{number}-own-answers")
        person.vote("right")
        person.sent()
        self.look(page, f"{number}-own-kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--votes", type=int, default=200)
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    looks = Looks(asked.axe, asked.pictures)
    with tempfile.TemporaryDirectory() as folder:
        votes = Path(folder) / "votes.sqlite"
        words = [*write_sources(Path(folder), 3 * asked.votes), "--votes", str(votes), "--per-item", "3", "--port"]
        page = Process(*words, "0")
        address, port = page.address.rstrip("/"), str(page.port)
        people: list[Person | None] = [None] * len(LOOKS)
        failures: list[str] = []
        threads = [
            threading.Thread(target=vote_on, args=(address, i, asked.votes, people, failures))
            for i in range(len(LOOKS))
        ]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(6 + asked.votes * 0.15)
            page.end(signal.SIGKILL)
            page = Process(*words, port)
        for thread in threads:
            thread.join()
        for failure in failures:
            print(failure)
        if not failures:
            kept = assert_kept(votes, *(person for person in people if person is not None))
            print(f"{len(kept)} votes of {len(people)} people, each once, with its sides; the server killed twice")
        page.end(signal.SIGINT)
        if asked.axe or asked.pictures:
            few = [*write_sources(Path(folder), 3), "--votes", str(Path(folder) / "few.sqlite"), "--per-item", "9"]
            page = Process(*few, "--model", "base=sandbox:base", "--model", "other=sandbox:instruct", "--port", "0")
            looks.at_all(page.address.rstrip("/"))
            page.end(signal.SIGINT)
    if asked.axe:
        print(f"axe: {dict(looks.found) or 'no faults'}")
    sys.exit(1 if failures or looks.found["serious"] or looks.found["critical"] else 0)


if __name__ == "__main__":
    main()
