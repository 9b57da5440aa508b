"""Scores completions at a server, as a process of its own that tests can kill.

python asking.py URL CACHE COUNT FIRST        completions FIRST … FIRST + COUNT - 1, 16 at a time
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trimtab.rewards.cache import ScoreCache
from trimtab.rewards.nemotron import NemotronReward

FAST: dict[str, Any] = {"concurrency": 16, "timeout": 1.0, "backoff": 0.01, "longest_wait": 0.1, "retries": 8}


def texts(count: int, first: int = 0) -> tuple[list[str], list[str]]:
    """Prompts that repeat, completions that do not."""
    numbers = range(first, first + count)
    return [f"Question {i % 50}?" for i in numbers], [f"Answer {i}." for i in numbers]


def conversation(prompt: str, completion: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def reward(url: str, cache: Path | None = None, **settings: Any) -> NemotronReward:
    kept = ScoreCache(cache) if cache else None
    return NemotronReward("rm", base_url=url, cache=kept, **(FAST | settings))


if __name__ == "__main__":
    url, cache, count, first = sys.argv[1:]
    found = reward(url, Path(cache)).scored(*texts(int(count), int(first)))
    print(json.dumps([[one.score, one.reason] for one in found]))
