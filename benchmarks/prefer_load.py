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
import signal
import sys
import tempfile
import time
from pathlib import Path

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


async def person(
    client: httpx.AsyncClient, name: str, votes: int, pause: float, seed: int
) -> list[tuple[str, float]]:
    """One person's votes: their ids, and the seconds until each was answered."""
    draw = random.Random(seed)
    ahead: list[dict[str, object]] = []
    done = []
    for number in range(votes):
        if len(ahead) < 4:
            held = [one["id"] for one in ahead]
            asked = {"person": name, "count": 6 - len(ahead), "held": held}
            answer = (await client.post("/api/items", json=asked)).raise_for_status().json()
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
        kept = (await client.post("/api/votes", json=body)).raise_for_status().json()["kept"]
        done.append((kept, time.perf_counter() - started))
    return done


async def crowd(address: str, people: int, votes: int, pause: float) -> list[list[tuple[str, float]]]:
    limits = httpx.Limits(max_connections=people, max_keepalive_connections=people)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60, trust_env=False) as client:
        return await asyncio.gather(*(person(client, f"person-{i:03}", votes, pause, i) for i in range(people)))


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
