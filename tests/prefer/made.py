"""Items that no model wrote, and a page of them on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from trimtab.data.vote_file import Item
from trimtab.prefer.app import Served
from trimtab.prefer.ballot import Ballot
from trimtab.prefer.numbers_page import LiveNumbers
from trimtab.prefer.own import OwnPrompts
from trimtab.prefer.serve import Place, at, key_of, serving


def item(number: int, first: str = "", second: str = "", prompt: str = "") -> Item:
    prompt = prompt or f"Question {number}?"
    return Item(
        id=f"item-{number:04}",
        purpose="random",
        prompt_id=f"p{number}",
        prompt=prompt,
        messages=json.dumps([{"role": "user", "content": prompt}]),
        first="sft",
        second="dpo",
        seed=0,
        first_completion=first or f"The **first** answer to {number}.",
        second_completion=second or f"The *second* answer to {number}.",
    )


def two_sources(folder: Path, count: int) -> list[str]:
    """Files with completions of two methods for as many prompts."""
    files = []
    for name in ("sft", "dpo"):
        file = folder / f"{name}.jsonl"
        rows = [{"prompt": f"ask {i}", "completion": f"{name} says {i}"} for i in range(count)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(str(file))
    return files


@dataclass
class Running:
    """A page that is served. votes: its file."""

    address: str
    votes: Path
    ballot: Ballot
    served: Served

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers=headers, trust_env=False)

    def post(self, path: str, **body: Any) -> Any:
        """What the server answers to JSON, which is to be a success."""
        with self.client() as client:
            answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def page(
    votes: Path, items: Sequence[Item], host: str = "127.0.0.1", per_item: int = 2, own: OwnPrompts | None = None
) -> Iterator[Running]:
    """The page in a thread of this process, on a port that is free."""
    place = Place(host, 0)
    ballot = Ballot(votes, items, per_item)
    served = at(
        place, Served(ballot, key_of(votes), "Which answer is better?", own, numbers=LiveNumbers(votes)), votes
    )
    with serving(place, served):
        yield Running(f"http://127.0.0.1:{place.port}", votes, ballot, served)
    ballot.close()


class Process:
    """`trimtab prefer` as a process of its own. address: as it was printed for those who judge."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "trimtab", "prefer", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        printed = [line.removeprefix("Judge: ") for line in self.lines if line.startswith("Judge: ")]
        assert printed, self.lines
        self.address = printed[0]

    @property
    def port(self) -> int:
        return int(httpx.URL(self.address).port or 0)

    def end(self, signum: int) -> tuple[int, str]:
        """Sends a signal, and waits for the exit code and what was printed since."""
        self.process.send_signal(signum)
        printed, _ = self.process.communicate(timeout=60)
        return self.process.returncode, printed
