"""Servers and proxies that send an answer twice: whole, in pieces, or only once the next request is there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rewards.asking import conversation, reward, texts
from servers.nemotron_server import score_of
from trimtab.rewards import endpoint
from trimtab.rewards.cache import ScoreCache


def _request(stream: Any) -> tuple[dict[str, str], dict[str, Any]] | None:
    if not stream.readline():
        return None
    headers = {}
    while (line := stream.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return headers, json.loads(stream.read(int(headers["content-length"])))


def _answer(content: str, name: str | None) -> bytes:
    value = {"choices": [{"message": {"content": content}}]} | ({"id": name} if name else {})
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@contextmanager
def twice(every: int, how: str, ids: bool = False) -> Iterator[str]:
    """Answers each request, every `every`-th of a connection's or of all twice. It never closes by itself."""
    listening = socket.create_server(("127.0.0.1", 0))
    count, last = 0, b""
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        nonlocal count, last
        held = b""
        with connection, connection.makefile("rb") as stream:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (asked := _request(stream)) is not None:
                headers, body = asked
                name = f"chatcmpl-{headers['x-request-id']}" if ids else None
                sent = _answer(f"reward:{score_of(body['messages'])}", name)
                with lock:
                    count += 1
                    again = count % every == 0
                    swapped, last = last, sent
                if how == "another's" and again and swapped:  # a proxy that mixes its own connections up
                    connection.sendall(swapped)
                    continue
                connection.sendall(held + sent)
                held = b""
                if again and how == "at once":
                    connection.sendall(sent)
                elif again and how == "in pieces":
                    for i in range(0, len(sent), 40):
                        connection.sendall(sent[i : i + 40])
                elif again and how == "with the next request":
                    held = sent

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=_quietly, args=(serve, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.close()


def _quietly(serve: Any, connection: socket.socket) -> None:
    try:
        serve(connection)
    except OSError:  # the client left in the middle
        return


@pytest.mark.parametrize("how", ["at once", "in pieces", "with the next request", "another's"])
@pytest.mark.parametrize("every", [2, 7])
def test_no_score_is_another_completions(how: str, every: int, tmp_path: Path) -> None:
    """Neither given nor kept; a proxy that mixes its connections up is seen by the id, and asked again."""
    prompts, completions = texts(200)
    truth = [score_of(conversation(p, c)) for p, c in zip(prompts, completions, strict=True)]
    with twice(every, how, ids=how == "another's") as address:
        asking = reward(address, tmp_path / "s.sqlite", timeout=5.0, retries=20, backoff=0.001)
        assert asking.score(prompts, completions) == truth
    kept = ScoreCache(tmp_path / "s.sqlite").get(asking.signature, zip(prompts, completions, strict=True))
    assert [one.score for one in kept.values()] == truth


def test_an_id_that_is_another_requests_is_told() -> None:
    ours, other = "trimtab-" + "a" * 32, "trimtab-" + "b" * 32
    assert endpoint.foreign_id({"id": f"chatcmpl-{ours}"}, "", ours) is None
    assert endpoint.foreign_id({"id": f"pool-{other}-0"}, "", ours) == other
    assert endpoint.foreign_id({}, other, ours) == other
    for says_nothing in ({"id": "chatcmpl-1"}, {"id": 5}, {}, [1], None):
        assert endpoint.foreign_id(says_nothing, "gateway-77", ours) is None


def test_an_answer_without_an_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LARGEST_ANSWER", 50)
    with twice(1000, "at once") as address:
        found = reward(address).scored(["p"], ["c"])
    assert found[0].reason == "an answer of more than 50 bytes"
