"""Many people at one page of `trimtab prefer`: how long a vote takes, and whether any is lost.

    PYTHONPATH=tests python benchmarks/prefer_load.py [--people 50] [--votes 100] [--pause 1.0]

The page runs as a process of its own, over completions of `--items` prompts. Each person asks for items as the
page does, and votes with a random pause around the mean that is named; 0 votes without any. In the end every vote
that was answered must stand in the file once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from prefer.made import Process
from trimtab.data.vote_file import VERDICTS, read_votes


def write_sources(folder: Path, items: int) -> list[str]:
    """Completions of two methods, of a few hundred words of Markdown each."""
    files = []
    for name in ("sft", "dpo"):
        file = folder / f"{name}.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for i in range(items):
                text = "\n\n".join(f"{j}. **{name}** says *{i}*: {'and so on ' * 15}" for j in range(10))
                out.write(json.dumps({"prompt": f"ask {i}", "completion": text}) + "\n")
        files.append(str(file))
    return files


class Connection:
    """HTTP over one connection that is kept. A client of its own, since a whole one takes longer than the server,
    and would be what is measured."""

    def __init__(self, address: str) -> None:
        self.url = httpx.URL(address)

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.url.host, self.url.port)

    async def post(self, path: str, value: object) -> dict[str, Any]:
        """What the server answers. RuntimeError where it is no success."""
        body = json.dumps(value).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.url.host}:{self.url.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answered = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", answered)[1])  # type: ignore[index]
        content = await self.reader.readexactly(length)
        if not answered.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(content.decode())
        read: dict[str, Any] = json.loads(content)
        return read


async def person(client: Connection, name: str, votes: int, pause: float, seed: int) -> list[tuple[str, float]]:
    """One person's votes: their ids, and the seconds until each was answered."""
    draw = random.Random(seed)
    ahead: list[dict[str, object]] = []
    done = []
    for number in range(votes):
        if len(ahead) < 4:
            held = [one["id"] for one in ahead]
            asked = {"person": name, "count": 6 - len(ahead), "held": held}
            answer = await client.post("/api/items", asked)
            ahead += answer["items"]
        if not ahead:
            break
        await asyncio.sleep(draw.uniform(0.5, 1.5) * pause)
        shown = ahead.pop(0)
        body = {
            "vote_id": f"{name}-{number:05}-{draw.getrandbits(64):x}", "item": shown["id"], "person": name,
            "repeated": shown["repeated"], "verdict": draw.choice(VERDICTS), "milliseconds": int(1000 * pause),
        }  # fmt: skip
        started = time.perf_counter()
        kept = (await client.post("/api/votes", body))["kept"]
        done.append((kept, time.perf_counter() - started))
    return done


async def crowd(address: str, people: int, votes: int, pause: float) -> list[list[tuple[str, float]]]:
    clients = [Connection(address) for _ in range(people)]
    for client in clients:
        await client.open()
    everybody = (person(client, f"person-{i:03}", votes, pause, i) for i, client in enumerate(clients))
    return await asyncio.gather(*everybody)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--votes", type=int, default=100)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between votes")
    parser.add_argument("--items", type=int, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        votes = Path(folder) / "votes.sqlite"
        sources = write_sources(Path(folder), asked.items)
        page = Process(*sources, "--votes", str(votes), "--port", "0", "--per-item", "50")
        started = time.perf_counter()
        done = asyncio.run(crowd(page.address, asked.people, asked.votes, asked.pause))
        seconds = time.perf_counter() - started
        page.end(signal.SIGINT)
        kept = [vote.vote_id for vote in read_votes(votes)]
    answered = [vote_id for each in done for vote_id, _ in each]
    times = 1000 * np.array([taken for each in done for _, taken in each])
    print(
        f"{asked.people} people, {len(answered)} votes in {seconds:.1f} s ({len(answered) / seconds:.0f} a second)"
    )
    print(
        "milliseconds of a vote: "
        + ", ".join(
            f"{name} {value:.0f}"
            for name, value in zip(
                ("median", "p90", "p99", "most"), np.percentile(times, [50, 90, 99, 100]), strict=True
            )
        )
    )
    lost, doubled = len(set(answered) - set(kept)), len(kept) - len(set(kept))
    print(f"lost {lost}, doubled {doubled}, unknown {len(set(kept) - set(answered))}")
    sys.exit(1 if lost or doubled or sorted(kept) != sorted(answered) else 0)


if __name__ == "__main__":
    main()
