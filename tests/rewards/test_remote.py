"""A server that fails in every way, a process that is killed, two that share a cache: no score is lost,
repeated or made up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from rewards.asking import conversation, reward, texts
from servers.nemotron_server import FAULTS, RewardServer, conversation_key, score_of, serving
from trimtab.errors import TrimtabError
from trimtab.rewards import endpoint
from trimtab.rewards.base import Scored
from trimtab.rewards.cache import LEASE, ScoreCache

ASKING = Path(__file__).with_name("asking.py")
COUNT = 2000


def expected(prompts: list[str], completions: list[str]) -> list[float]:
    return [score_of(conversation(p, c)) for p, c in zip(prompts, completions, strict=True)]


def rows(cache: Path) -> list[float]:
    with sqlite3.connect(cache) as database:
        return [score for (score,) in database.execute("SELECT score FROM scores")]


def process(server: RewardServer, cache: Path, count: int, first: int = 0) -> subprocess.Popen[str]:
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, str(ASKING), server.address + "/v1", str(cache), str(count), str(first)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_server_that_fails_in_every_way_costs_no_score(tmp_path: Path) -> None:
    """30 % of calls fail. A completion is missing only where the server's own answer was reward:nan: 9 tries
    of anything else run out once in 0.27^9, 2,000 times. What is scored is what the server said, 0.0 included."""
    prompts, completions = texts(COUNT)
    with serving(fault_rate=0.3, hang=6.0) as server:
        asking = reward(server.address + "/v1", tmp_path / "scores.sqlite", timeout=3.0)
        found = asking.scored(prompts, completions)
    truth = expected(prompts, completions)
    assert set(server.failed) == set(FAULTS)
    assert [one.score for one in found] == [
        t if one.score is not None else None for one, t in zip(found, truth, strict=True)
    ]
    missing = [one.reason for one in found if one.score is None]
    assert len(missing) == server.failed["nan"] > 0
    assert set(missing) == {"rm gave reward:nan"}
    assert Counter(one.score for one in found)[0.0] == sum(
        t == 0.0 for one, t in zip(found, truth, strict=True) if one.score is not None
    )
    assert 0.0 in truth, "the server does say 0.0 now and then"
    assert all(n == 1 for n in server.scored.values()), "nothing is asked for that was answered"
    assert sorted(rows(tmp_path / "scores.sqlite")) == sorted(one.score for one in found if one.score is not None)


def test_killed_and_run_again_repeats_no_call(tmp_path: Path) -> None:
    """SIGKILL when the server has scored 600. The second run asks for nothing that the first one has in its
    cache; what can be asked twice is what was on its way, 16 at most. Failures are asked for again."""
    cache = tmp_path / "scores.sqlite"
    prompts, completions = texts(COUNT)
    with serving(fault_rate=0.3, hang=2.0) as server:
        first = process(server, cache, COUNT)
        while server.scored.total() < 600:
            assert first.poll() is None
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept = ScoreCache(cache).get(
            reward(server.address + "/v1").signature, zip(prompts, completions, strict=True)
        )
        assert 600 - 16 <= len(kept) < COUNT
        keys = {conversation_key(conversation(p, c)) for p, c in kept}
        before = Counter(server.asked)
        second = process(server, cache, COUNT)
        found = json.loads(second.communicate(timeout=120)[0])
        assert not [key for key in keys if server.asked[key] > before[key]]
        assert sum(n - 1 for n in server.scored.values()) <= 16
    truth = expected(prompts, completions)
    assert [s for s, _ in found] == [t if s is not None else None for (s, _), t in zip(found, truth, strict=True)]
    assert all(reason == "rm gave reward:nan" for s, reason in found if s is None)
    assert len(rows(cache)) == sum(s is not None for s, _ in found)


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    """Both make the file, write at once, and overlap in half of their completions: one row for each."""
    cache = tmp_path / "scores.sqlite"
    with serving() as server:
        both = [process(server, cache, 300, first) for first in (0, 150)]
        found = [json.loads(one.communicate(timeout=120)[0]) for one in both]
        assert [one.returncode for one in both] == [0, 0]
        assert [[s for s, _ in one] for one in found] == [expected(*texts(300)), expected(*texts(300, 150))]
        assert len(rows(cache)) == 450
        asked = server.asked.total()
        assert asked == 450, "what one asks for, the other waits for"
        assert reward(server.address + "/v1", cache).score(*texts(450)) == expected(*texts(450))
        assert server.asked.total() == asked


def test_a_claim_of_a_process_that_died_or_fell_silent_lapses(tmp_path: Path) -> None:
    """Alive here: waited for. Gone from this machine, or elsewhere and not renewed: asked for. Without a score
    the claim goes back, and the other asks by itself."""
    cache, item = ScoreCache(tmp_path / "s.sqlite"), ("p", "c")
    other = ScoreCache(cache.path)
    assert cache.claim("r", item) is True
    assert cache.claim("r", item) is True, "its own"
    assert other.claim("r", item) is False
    cache.release("r", item)
    assert other.claim("r", item) is True
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = other.owner.rsplit(":", 2)[0]
    now = time.time()
    for owner, renewed, free in [
        (f"{host}:{dead.pid}:x", now, True),
        (f"{host}:{os.getppid()}:x", now, False),
        (f"{host}:{os.getppid()}:x", now - LEASE - 1, True),
        ("elsewhere:1:x", now - 1, False),
        ("elsewhere:1:x", now + 2 * LEASE, True),
    ]:
        with sqlite3.connect(cache.path) as database:
            database.execute("UPDATE claims SET owner = ?, renewed = ?", (owner, renewed))
        assert cache.claim("r", item) is free, (owner, renewed - now)
    cache.put("r", item, Scored(1.5))
    assert other.claim("r", item) == Scored(1.5)
    with sqlite3.connect(cache.path) as database:
        assert database.execute("SELECT count(*) FROM claims").fetchone() == (0,)


def test_what_another_process_asks_for_is_waited_for(tmp_path: Path) -> None:
    """It claimed one of two completions, and gets its score later; the server is asked for the other one."""
    with serving() as server:
        asking = reward(server.address + "/v1", tmp_path / "s.sqlite")
        other = ScoreCache(tmp_path / "s.sqlite")
        assert other.claim(asking.signature, ("p", "theirs")) is True

        def later() -> None:
            other.renew()
            other.put(asking.signature, ("p", "theirs"), Scored(42.0))
            other.close()

        threading.Timer(0.5, later).start()
        found = asking.score(["p", "p"], ["theirs", "ours"])
        assert found == [42.0, score_of(conversation("p", "ours"))]
        assert server.asked.total() == 1


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("database or disk is full", "Make room on the disk"),
        ("attempt to write a readonly database", "Make the file and its folder writable"),
        ("database is locked", "Another program holds it"),
        ("file is not a database", "Mend or remove the file"),
    ],
)
def test_a_cache_that_fails_says_what_to_do(
    error: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server is asked: a claim is written first."""
    real = ScoreCache.claim

    def fails(self: ScoreCache, *given: Any) -> Any:
        with self._database():
            raise sqlite3.OperationalError(error)

    monkeypatch.setattr(ScoreCache, "claim", fails)
    with serving() as server:
        with pytest.raises(TrimtabError, match=f"score cache .*{error}. {advice}"):
            reward(server.address + "/v1", tmp_path / "s.sqlite").score(*texts(5))
        assert server.asked.total() == 0
        monkeypatch.setattr(ScoreCache, "claim", real)
        assert reward(server.address + "/v1", tmp_path / "s.sqlite").score(*texts(5)) == expected(*texts(5))


# ---- what stops at once


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "The key in MY_KEY is not valid here."),
        (403, "The key in MY_KEY is not valid here."),
        (402, "no credit left"),
        (410, "Check the reward's model and base_url"),
        (404, "Check the reward's model and base_url"),
        (307, "Name the address that it redirects to"),
    ],
)
def test_what_no_other_call_would_mend_stops_at_once(
    status: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more requests than were under way, and no key in the message, though the server echoes it."""
    monkeypatch.setenv("MY_KEY", "test-key-secret")
    with serving(status=status) as server:
        asking = reward(server.address + "/v1", api_key_variable="MY_KEY", concurrency=4)
        with pytest.raises(TrimtabError) as found:
            asking.score(*texts(200))
    assert server.asked.total() <= 4
    message = str(found.value)
    assert message.startswith(f"reward rm: {server.address}/v1 answers {status} ")
    assert advice in message
    assert "Bearer [key]" in message
    assert "secret" not in message + repr(asking) + repr(vars(asking.endpoint))


def test_a_server_that_is_away_stops_the_run(tmp_path: Path) -> None:
    """Nobody listens: after 16 completions in a row the run stops, and says how to go on."""
    with serving() as server:
        address = server.address
        reward(address + "/v1", tmp_path / "s.sqlite").score(*texts(5))
    asking = reward(address + "/v1", tmp_path / "s.sqlite", concurrency=8, retries=1)
    with pytest.raises(TrimtabError, match=r"16 completions in a row had no answer .* the same command goes on"):
        asking.score(*texts(200))
    few = reward(address + "/v1", tmp_path / "s.sqlite", retries=1).scored(*texts(8))
    assert [one.score for one in few[:5]] == expected(*texts(5))
    assert [one.score for one in few[5:]] == [None] * 3
    assert "ConnectError" in str(few[5].reason)
    assert str(few[5].reason).endswith("(2 tries)")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_not_asked_again(status: int) -> None:
    """It is about this one completion, too long for instance: missing, with what the server said."""
    with serving(status=status) as server:
        found = reward(server.address + "/v1").scored(*texts(40))
    assert server.asked.total() == 40
    assert {one.score for one in found} == {None}
    assert str(found[0].reason).startswith(f"{status} ")
    assert "status on purpose" in str(found[0].reason)


# ---- how it asks


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_statuses_that_may_pass_are_tried_again(status: int) -> None:
    with serving(status=status) as server:
        found = reward(server.address + "/v1", retries=2).scored(["p"], ["c"])
    assert server.asked.total() == 3
    assert str(found[0].reason).endswith("(3 tries)")


@pytest.mark.parametrize(
    ("fault", "asked", "at_least"), [("429 with seconds", 1, 1.0), ("429 with a date", 2, 0.9)]
)
def test_the_wait_that_the_server_asks_for_is_kept(fault: str, asked: int, at_least: float) -> None:
    """A date has whole seconds, so two from now may be one. More than longest_wait is not waited for at all."""
    with serving(faults=(fault,), fault_rate=1.0, asked=asked) as server:
        reward(server.address + "/v1", retries=1, longest_wait=5.0).scored(["p"], ["c"])
        first, second = server.times
        assert at_least <= second - first < asked + 1
        found = reward(server.address + "/v1", retries=1, longest_wait=0.5).scored(["p"], ["c"])
        assert server.asked.total() == 3
    assert str(found[0].reason).startswith("429 ")


def test_answers_that_python_cannot_hold_are_no_errors() -> None:
    """Brackets a hundred thousand deep; a number that no float holds, which is no score."""
    nemotron = reward("http://h/v1", None)
    with pytest.raises(endpoint.UnansweredError, match="no JSON"):
        nemotron.endpoint._read(httpx.Response(200, text="[" * 100_000))
    for content in ("9" * 400, f'"{"9" * 400}"'):
        answer = httpx.Response(200, text='{"choices": [{"message": {"content": ' + content + "}}]}")
        assert nemotron.read(nemotron.endpoint._read(answer)).reason == "rm gave reward:inf"


def test_retry_after_in_both_its_forms() -> None:
    assert endpoint.retry_after(None) is None
    assert endpoint.retry_after("17") == 17.0
    assert endpoint.retry_after("soon") is None
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert endpoint.retry_after(format_datetime(later, usegmt=True)) == pytest.approx(90, abs=2)
    assert endpoint.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_the_rate_is_kept_and_so_is_the_number_at_once() -> None:
    """1,200 a minute is one each 50 ms: 21 requests take a second, whatever the concurrency."""
    with serving() as server:
        reward(server.address + "/v1", requests_per_minute=1200).score(*texts(21))
        gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert server.times[-1] - server.times[0] >= 0.95
        assert max(gaps) < 0.5
    with serving(delay=0.02) as server:
        reward(server.address + "/v1", concurrency=3).score(*texts(30))
        assert server.most_under_way == 3


def test_equal_rows_are_asked_for_once_and_a_lone_surrogate_is_no_dead_end() -> None:
    with serving() as server:
        found = reward(server.address + "/v1").score(["p", "q", "p", "\ud800"], ["c", "c", "c", "c"])
        assert server.asked.total() == 3
    assert found == expected(["p", "q", "p", "\ud800"], ["c"] * 4)


def test_from_inside_a_running_loop() -> None:
    """A notebook's cells run in one."""

    async def cell(address: str) -> Any:
        return reward(address + "/v1").score(["p"], ["c"])

    with serving() as server:
        assert asyncio.run(cell(server.address)) == expected(["p"], ["c"])
